//! Expressions, as Jinja2 parses them.

use super::ast::{Arguments, Binary, Comparison, Const, Expr, Unary};
use super::fault::Fault;
use super::lexer::Token;
use super::parser::Parser;
use std::sync::Arc;

const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<", Comparison::Less),
    ("<=", Comparison::LessOrEqual),
    (">", Comparison::Greater),
    (">=", Comparison::GreaterOrEqual),
];
const SUMS: [(&str, Binary); 2] = [("+", Binary::Add), ("-", Binary::Subtract)];
const PRODUCTS: [(&str, Binary); 4] =
    [("*", Binary::Multiply), ("/", Binary::Divide), ("//", Binary::FloorDivide), ("%", Binary::Remainder)];
const POWERS: [(&str, Binary); 1] = [("**", Binary::Power)];

/// Operators of one rank in a row.
const LONGEST: u32 = 100;

impl Parser {
    pub(super) fn expression(&mut self) -> Result<Expr, Fault> {
        self.deeper(|parser| {
            let mut expr = parser.or()?;
            let mut length = 0;
            while parser.skip_name("if") {
                longer(&mut length)?;
                let test = Box::new(parser.or()?);
                let other = if parser.skip_name("else") { Some(Box::new(parser.expression()?)) } else { None };
                expr = Expr::Condition { test, then: Box::new(expr), other };
            }
            Ok(expr)
        })
    }

    /// An expression, or several with commas: a tuple. In parentheses there may be none.
    pub(super) fn tuple(&mut self, parentheses: bool) -> Result<Expr, Fault> {
        self.several(parentheses, Self::expression)
    }

    /// The same without a condition, as it stands behind `if` and `in`.
    pub(super) fn plain_tuple(&mut self) -> Result<Expr, Fault> {
        self.several(false, Self::or)
    }

    fn several(
        &mut self,
        parentheses: bool,
        mut item: impl FnMut(&mut Self) -> Result<Expr, Fault>,
    ) -> Result<Expr, Fault> {
        let mut items = Vec::new();
        let mut comma = false;
        loop {
            if matches!(self.peek(), Token::PrintEnd | Token::BlockEnd | Token::Operator(")")) {
                break;
            }
            items.push(item(self)?);
            if !self.skip(",") {
                break;
            }
            comma = true;
        }
        match items.pop() {
            Some(only) if !comma => Ok(only),
            None if !parentheses => self.fault("expected an expression"),
            last => {
                items.extend(last);
                Ok(Expr::Tuple(items))
            }
        }
    }

    fn or(&mut self) -> Result<Expr, Fault> {
        let mut left = self.and()?;
        let mut length = 0;
        while self.skip_name("or") {
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
            longer(&mut length)?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr, Fault> {
        let mut left = self.not()?;
        let mut length = 0;
        while self.skip_name("and") {
            left = Expr::And(Box::new(left), Box::new(self.not()?));
            longer(&mut length)?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr, Fault> {
        if self.skip_name("not") {
            let inner = self.deeper(Self::not)?;
            return Ok(Expr::Unary(Unary::Not, Box::new(inner)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr, Fault> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let found = COMPARISONS.iter().find(|(text, _)| self.is(text)).map(|(_, comparison)| *comparison);
            let comparison = if let Some(found) = found {
                self.next();
                found
            } else if self.skip_name("in") {
                Comparison::In
            } else if self.is_name("not") && matches!(self.ahead(1), Token::Name(name) if &**name == "in") {
                self.next();
                self.next();
                Comparison::NotIn
            } else {
                break;
            };
            rest.push((comparison, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare(Box::new(first), rest) })
    }

    fn sum(&mut self) -> Result<Expr, Fault> {
        self.chain(&SUMS, Self::concat)
    }

    fn concat(&mut self) -> Result<Expr, Fault> {
        let first = self.chain(&PRODUCTS, Self::power)?;
        let mut parts = vec![first];
        while self.skip("~") {
            parts.push(self.chain(&PRODUCTS, Self::power)?);
        }
        Ok(match parts.pop() {
            Some(only) if parts.is_empty() => only,
            last => {
                parts.extend(last);
                Expr::Concat(parts)
            }
        })
    }

    fn power(&mut self) -> Result<Expr, Fault> {
        self.chain(&POWERS, |parser| parser.unary(true))
    }

    /// Operators of one rank, from the left.
    fn chain(
        &mut self,
        operators: &[(&str, Binary)],
        mut next: impl FnMut(&mut Self) -> Result<Expr, Fault>,
    ) -> Result<Expr, Fault> {
        let mut left = next(self)?;
        let mut length = 0;
        while let Some((_, operator)) = operators.iter().find(|(text, _)| self.is(text)) {
            self.next();
            left = Expr::Binary(*operator, Box::new(left), Box::new(next(self)?));
            longer(&mut length)?;
        }
        Ok(left)
    }

    fn unary(&mut self, filters: bool) -> Result<Expr, Fault> {
        let sign = [("-", Unary::Negative), ("+", Unary::Positive)].into_iter().find(|(text, _)| self.is(text));
        let expr = match sign {
            Some((_, sign)) => {
                self.next();
                let inner = self.deeper(|parser| parser.unary(false))?;
                Expr::Unary(sign, Box::new(inner))
            }
            None => self.primary()?,
        };
        let expr = self.postfix(expr)?;
        if filters { self.filtered(expr) } else { Ok(expr) }
    }

    fn primary(&mut self) -> Result<Expr, Fault> {
        Ok(match self.next() {
            Token::Name(name) => match &*name {
                "true" | "True" => Expr::Const(Const::Bool(true)),
                "false" | "False" => Expr::Const(Const::Bool(false)),
                "none" | "None" => Expr::Const(Const::None),
                _ => Expr::Name(name),
            },
            Token::Text(mut text) => {
                while let Token::Text(more) = self.peek() {
                    text.push_str(more);
                    self.next();
                }
                Expr::Const(Const::Text(text.into()))
            }
            Token::Int(value) => Expr::Const(Const::Int(value)),
            Token::Float(value) => Expr::Const(Const::Float(value)),
            Token::Operator("(") => {
                let inner = self.deeper(|parser| parser.tuple(true))?;
                self.expect(")")?;
                inner
            }
            Token::Operator("[") => Expr::List(self.items("]", Self::expression)?),
            Token::Operator("{") => Expr::Dict(self.items("}", |parser| {
                let key = parser.expression()?;
                parser.expect(":")?;
                Ok((key, parser.expression()?))
            })?),
            _ => return self.fault("expected a value"),
        })
    }

    fn items<T>(&mut self, close: &str, mut item: impl FnMut(&mut Self) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
        let mut items = Vec::new();
        while !self.is(close) {
            if !items.is_empty() {
                self.expect(",")?;
                if self.is(close) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        self.expect(close)?;
        Ok(items)
    }

    fn postfix(&mut self, mut expr: Expr) -> Result<Expr, Fault> {
        let mut length = 0;
        loop {
            longer(&mut length)?;
            expr = if self.skip(".") {
                match self.next() {
                    Token::Name(name) => Expr::Attribute(Box::new(expr), name),
                    Token::Int(index) => Expr::Item(Box::new(expr), Box::new(Expr::Const(Const::Int(index)))),
                    _ => return self.fault("expected a name or a number"),
                }
            } else if self.skip("[") {
                self.subscript(expr)?
            } else if self.is("(") {
                Expr::Call(Box::new(expr), self.arguments()?)
            } else {
                return Ok(expr);
            };
        }
    }

    /// What stands between `[` and `]`.
    fn subscript(&mut self, expr: Expr) -> Result<Expr, Fault> {
        let mut parts = [None, None, None];
        let mut n = 0;
        let mut keys = Vec::new();
        loop {
            if self.skip(":") {
                n += 1;
                if n > 2 {
                    return self.fault("a slice has three parts at most");
                }
            } else if self.skip("]") {
                break;
            } else if self.is(",") && n == 0 {
                self.next();
                keys.extend(parts[0].take());
                if self.is(":") {
                    return Err(Fault::unsupported("several slices in one subscript"));
                }
            } else if parts[n].is_some() {
                return self.fault("expected `]`");
            } else {
                parts[n] = Some(self.expression()?);
            }
        }
        if n > 0 {
            return if keys.is_empty() {
                Ok(Expr::Slice(Box::new(expr), Box::new(parts)))
            } else {
                Err(Fault::unsupported("several slices in one subscript"))
            };
        }
        let [last, ..] = parts;
        if keys.is_empty() {
            // Jinja2 reads `x[]` as `x[()]`.
            return Ok(Expr::Item(Box::new(expr), Box::new(last.unwrap_or(Expr::Tuple(Vec::new())))));
        }
        keys.extend(last);
        Ok(Expr::Item(Box::new(expr), Box::new(Expr::Tuple(keys))))
    }

    /// Filters, tests and calls behind a value.
    fn filtered(&mut self, mut expr: Expr) -> Result<Expr, Fault> {
        let mut length = 0;
        loop {
            longer(&mut length)?;
            expr = if self.skip("|") {
                let name = self.dotted()?;
                let arguments = if self.is("(") { self.arguments()? } else { Arguments::default() };
                Expr::Filter(Box::new(expr), name, arguments)
            } else if self.skip_name("is") {
                self.test(expr)?
            } else if self.is("(") {
                Expr::Call(Box::new(expr), self.arguments()?)
            } else {
                return Ok(expr);
            };
        }
    }

    fn test(&mut self, expr: Expr) -> Result<Expr, Fault> {
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        let word = |parser: &Self, words: &[&str]| words.iter().any(|word| parser.is_name(word));
        let argument = match self.peek() {
            Token::Name(_) => !word(self, &["else", "or", "and"]),
            Token::Text(_) | Token::Int(_) | Token::Float(_) | Token::Operator("[" | "{") => true,
            _ => false,
        };
        let mut arguments = Arguments::default();
        if self.is("(") {
            arguments = self.arguments()?;
        } else if argument {
            if self.is_name("is") {
                return self.fault("tests with `is` cannot be chained");
            }
            let only = self.primary()?;
            arguments.positional.push(self.postfix(only)?);
        }
        let test = Expr::Test(Box::new(expr), name, arguments);
        Ok(if negated { Expr::Unary(Unary::Not, Box::new(test)) } else { test })
    }

    pub(super) fn dotted(&mut self) -> Result<Arc<str>, Fault> {
        let mut name = self.name()?.to_string();
        while self.skip(".") {
            name.push('.');
            name.push_str(&self.name()?);
        }
        Ok(name.into())
    }

    pub(super) fn arguments(&mut self) -> Result<Arguments, Fault> {
        let mut arguments = Arguments::default();
        self.expect("(")?;
        let mut comma = false;
        while !self.is(")") {
            if comma {
                self.expect(",")?;
                if self.is(")") {
                    break;
                }
            }
            comma = true;
            if self.skip("*") {
                if arguments.spread.is_some() || arguments.spread_named.is_some() {
                    return self.fault("not an argument");
                }
                arguments.spread = Some(Box::new(self.expression()?));
            } else if self.skip("**") {
                if arguments.spread_named.is_some() {
                    return self.fault("not an argument");
                }
                arguments.spread_named = Some(Box::new(self.expression()?));
            } else if let (Token::Name(name), Token::Operator("=")) = (self.peek().clone(), self.ahead(1)) {
                if arguments.spread_named.is_some() {
                    return self.fault("not an argument");
                }
                self.next();
                self.next();
                arguments.named.push((name, self.expression()?));
            } else if arguments.named.is_empty() && arguments.spread.is_none() && arguments.spread_named.is_none() {
                arguments.positional.push(self.expression()?);
            } else {
                return self.fault("not an argument");
            }
        }
        self.expect(")")?;
        Ok(arguments)
    }
}

/// Counts the links of a chain of operators, which nest in the tree.
fn longer(length: &mut u32) -> Result<(), Fault> {
    *length += 1;
    if *length > LONGEST { Err(Fault::budget("its expressions are too long")) } else { Ok(()) }
}
