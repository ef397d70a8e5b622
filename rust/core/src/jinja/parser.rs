//! Statements, as Jinja2 parses them.

use super::ast::{Arguments, Expr, Filters, For, Macro, Statement, Target};
use super::fault::Fault;
use super::lexer::Token;
use std::sync::Arc;

/// How deep blocks and expressions may nest in a template's text.
const DEPTH: usize = 90;

/// Parses the tokens of a whole template, each with its line.
pub(super) fn parse(tokens: Vec<(Token, usize)>) -> Result<Vec<Statement>, Fault> {
    let mut parser = Parser { tokens, at: 0, depth: 0, loops: 0 };
    let body = parser.body(&[])?;
    match parser.peek() {
        Token::End => Ok(body),
        _ => parser.fault("a block that was not opened ends here"),
    }
}

pub(super) struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
    /// Loops around this place, in this macro.
    loops: usize,
}

/// The tokens.
impl Parser {
    pub(super) fn peek(&self) -> &Token {
        self.ahead(0)
    }

    pub(super) fn ahead(&self, n: usize) -> &Token {
        // The last token is the end.
        &self.tokens[(self.at + n).min(self.tokens.len() - 1)].0
    }

    pub(super) fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    pub(super) fn fault<T>(&self, problem: impl Into<String>) -> Result<T, Fault> {
        let line = self.tokens[self.at.min(self.tokens.len() - 1)].1;
        Err(Fault::Syntax { line, problem: problem.into() })
    }

    pub(super) fn is(&self, operator: &str) -> bool {
        matches!(self.peek(), Token::Operator(found) if *found == operator)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Token::Name(found) if **found == *name)
    }

    pub(super) fn skip(&mut self, operator: &str) -> bool {
        let there = self.is(operator);
        self.at += usize::from(there);
        there
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let there = self.is_name(name);
        self.at += usize::from(there);
        there
    }

    pub(super) fn expect(&mut self, operator: &str) -> Result<(), Fault> {
        if self.skip(operator) { Ok(()) } else { self.fault(format!("expected `{operator}`")) }
    }

    pub(super) fn name(&mut self) -> Result<Arc<str>, Fault> {
        match self.next() {
            Token::Name(name) => Ok(name),
            _ => {
                self.at -= 1;
                self.fault("expected a name")
            }
        }
    }

    pub(super) fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.depth >= DEPTH {
            return Err(Fault::budget("its blocks or expressions nest too deep"));
        }
        self.depth += 1;
        let done = work(self);
        self.depth -= 1;
        done
    }

    fn block_end(&mut self) -> Result<(), Fault> {
        self.skip(":"); // as Python has it
        match self.next() {
            Token::BlockEnd => Ok(()),
            _ => {
                self.at -= 1;
                self.fault("expected the end of the tag")
            }
        }
    }
}

/// Statements.
impl Parser {
    /// Statements up to a tag of one of these names, which is the next token then.
    fn body(&mut self, ends: &[&str]) -> Result<Vec<Statement>, Fault> {
        self.deeper(|parser| parser.statements(ends))
    }

    fn statements(&mut self, ends: &[&str]) -> Result<Vec<Statement>, Fault> {
        let mut body = Vec::new();
        loop {
            match self.peek() {
                Token::End if ends.is_empty() => return Ok(body),
                Token::End => return self.fault(format!("`{}` is missing", ends.join("` or `"))),
                Token::Data(_) => {
                    if let Token::Data(text) = self.next() {
                        body.push(Statement::Data(text));
                    }
                }
                Token::PrintBegin => {
                    self.next();
                    body.push(Statement::Print(self.tuple(false)?));
                    if self.next() != Token::PrintEnd {
                        self.at -= 1;
                        return self.fault("expected `}}`");
                    }
                }
                _ => {
                    self.next();
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(body);
                    }
                    let statement = self.statement()?;
                    self.block_end()?;
                    body.extend(statement);
                }
            }
        }
    }

    /// A tag up to its end; none for one that does nothing.
    fn statement(&mut self) -> Result<Option<Statement>, Fault> {
        let name = self.name()?;
        Ok(Some(match &*name {
            "if" => self.condition()?,
            "for" => self.for_loop()?,
            "set" => self.set()?,
            "with" => self.with()?,
            "macro" => Statement::Macro(Arc::new(self.macro_block()?)),
            "call" => self.call_block()?,
            "filter" => {
                let filters = self.block_filters(true)?;
                Statement::FilterBlock(filters, self.block("endfilter")?)
            }
            "generation" => Statement::Scope(self.own_loops(|parser| parser.block("endgeneration"))?),
            "break" | "continue" if self.loops == 0 => return self.fault(format!("`{name}` outside a loop")),
            "break" => Statement::Break,
            "continue" => Statement::Continue,
            "print" => return Err(Fault::unsupported("{% print %}")),
            "include" | "extends" | "import" | "from" | "block" | "autoescape" => {
                return Err(Fault::unsupported(format!("{{% {name} %}}")));
            }
            _ => {
                self.at -= 1;
                return self.fault(format!("unknown tag `{name}`"));
            }
        }))
    }

    /// The end of a tag, and the statements up to `end`, whose own end the caller takes.
    fn block(&mut self, end: &str) -> Result<Vec<Statement>, Fault> {
        self.block_end()?;
        let body = self.body(&[end])?;
        self.next();
        Ok(body)
    }

    /// A macro's body is a function: `break` does not leave it.
    fn own_loops<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        let loops = std::mem::take(&mut self.loops);
        let done = work(self);
        self.loops = loops;
        done
    }

    fn condition(&mut self) -> Result<Statement, Fault> {
        let mut branches = Vec::new();
        let mut other = Vec::new();
        loop {
            let test = self.plain_tuple()?;
            self.block_end()?;
            branches.push((test, self.body(&["elif", "else", "endif"])?));
            match &*self.name()? {
                "elif" => {}
                "else" => {
                    other = self.block("endif")?;
                    break;
                }
                _ => break,
            }
        }
        Ok(Statement::If { branches, other })
    }

    fn for_loop(&mut self) -> Result<Statement, Fault> {
        let target = self.targets(false)?;
        if !self.skip_name("in") {
            return self.fault("expected `in`");
        }
        let over = self.plain_tuple()?;
        let only_if = if self.skip_name("if") { Some(self.expression()?) } else { None };
        if self.is_name("recursive") {
            return Err(Fault::unsupported("recursive loops"));
        }
        self.block_end()?;
        self.loops += 1;
        let body = self.body(&["endfor", "else"])?;
        self.loops -= 1;
        let otherwise = if &*self.name()? == "else" { self.block("endfor")? } else { Vec::new() };
        Ok(Statement::For(Box::new(For { target, over, only_if, body, otherwise })))
    }

    fn set(&mut self) -> Result<Statement, Fault> {
        let target = self.targets(true)?;
        if self.skip("=") {
            return Ok(Statement::Set(target, self.tuple(false)?));
        }
        let filters = self.block_filters(false)?;
        Ok(Statement::SetBlock(target, filters, self.block("endset")?))
    }

    fn with(&mut self) -> Result<Statement, Fault> {
        let mut given = Vec::new();
        while *self.peek() != Token::BlockEnd {
            if !given.is_empty() {
                self.expect(",")?;
            }
            let target = Target::Name(self.name()?);
            self.expect("=")?;
            given.push((target, self.expression()?));
        }
        Ok(Statement::With(given, self.block("endwith")?))
    }

    fn macro_block(&mut self) -> Result<Macro, Fault> {
        let name = self.name()?;
        self.own_loops(|parser| parser.function(name, "endmacro"))
    }

    /// Parameters and body of a macro.
    fn function(&mut self, name: Arc<str>, end: &str) -> Result<Macro, Fault> {
        let (parameters, defaults) = self.signature()?;
        let from = self.at;
        let body = self.block(end)?;
        Ok(self.as_macro(name, (parameters, defaults), from, body))
    }

    /// A macro whose body begins at the token `from` and ends here.
    fn as_macro(
        &self,
        name: Arc<str>,
        (parameters, defaults): (Vec<Arc<str>>, Vec<Expr>),
        from: usize,
        body: Vec<Statement>,
    ) -> Macro {
        let names =
            |word: &str| self.tokens[from..self.at].iter().any(|(t, _)| matches!(t, Token::Name(n) if **n == *word));
        let takes = |word: &str| names(word) && !parameters.iter().any(|p| **p == *word);
        let (takes_more, takes_named, takes_caller) = (takes("varargs"), takes("kwargs"), takes("caller"));
        Macro { name, parameters, defaults, body, takes_more, takes_named, takes_caller }
    }

    fn signature(&mut self) -> Result<(Vec<Arc<str>>, Vec<Expr>), Fault> {
        let (mut parameters, mut defaults) = (Vec::new(), Vec::new());
        if !self.skip("(") {
            return Ok((parameters, defaults));
        }
        while !self.is(")") {
            if !parameters.is_empty() {
                self.expect(",")?;
            }
            parameters.push(self.name()?);
            if self.skip("=") {
                defaults.push(self.expression()?);
            } else if !defaults.is_empty() {
                return self.fault("a parameter without a default follows one with a default");
            }
        }
        self.expect(")")?;
        Ok((parameters, defaults))
    }

    fn call_block(&mut self) -> Result<Statement, Fault> {
        let signature = self.signature()?;
        let call = self.expression()?;
        if !matches!(call, Expr::Call(..)) {
            return self.fault("expected a call");
        }
        let from = self.at;
        let body = self.own_loops(|parser| parser.block("endcall"))?;
        let caller = Arc::new(self.as_macro("caller".into(), signature, from, body));
        Ok(Statement::Call { call, caller })
    }

    /// `| trim | upper`; `first`: the first one without its bar.
    fn block_filters(&mut self, mut first: bool) -> Result<Filters, Fault> {
        let mut filters = Vec::new();
        while first || self.skip("|") {
            let name = self.dotted()?;
            let arguments = if self.is("(") { self.arguments()? } else { Arguments::default() };
            filters.push((name, arguments));
            first = false;
        }
        Ok(filters)
    }

    /// What is assigned to: names, with commas or in parentheses.
    fn targets(&mut self, attributes: bool) -> Result<Target, Fault> {
        let mut several = Vec::new();
        loop {
            several.push(self.target(attributes)?);
            if !self.skip(",") {
                break;
            }
            if self.is_name("in") || self.is("=") || *self.peek() == Token::BlockEnd {
                return Ok(Target::Several(several));
            }
        }
        match several.pop() {
            Some(only) if several.is_empty() => Ok(only),
            last => {
                several.extend(last);
                Ok(Target::Several(several))
            }
        }
    }

    fn target(&mut self, attributes: bool) -> Result<Target, Fault> {
        if self.skip("(") {
            let inner = self.deeper(|parser| parser.targets(attributes))?;
            self.expect(")")?;
            return Ok(inner);
        }
        let name = self.name()?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return self.fault(format!("`{name}` cannot be assigned to"));
        }
        if attributes && self.skip(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        Ok(Target::Name(name))
    }
}
