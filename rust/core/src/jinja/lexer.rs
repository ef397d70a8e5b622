//! Jinja2's lexer, set as transformers sets it: `trim_blocks` and `lstrip_blocks`, no line statements.

use super::fault::Fault;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Data(Arc<str>),
    PrintBegin,
    PrintEnd,
    BlockBegin,
    BlockEnd,
    Name(Arc<str>),
    Text(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

impl Token {
    /// A name or a text of an expression.
    pub(super) fn word(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The longest come first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

/// The tokens of a template, each with its line.
pub(super) fn tokens(source: &str) -> Result<Vec<(Token, usize)>, Fault> {
    // Line breaks become `\n`, and the last one goes.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, line: 1, tokens: Vec::new() };
    while lexer.at < source.len() {
        lexer.outside()?;
    }
    let line = lexer.line;
    lexer.tokens.push((Token::End, line));
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: usize,
    tokens: Vec<(Token, usize)>,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn skip(&mut self, bytes: usize) {
        self.line += memchr::memchr_iter(b'\n', &self.source.as_bytes()[self.at..self.at + bytes]).count();
        self.at += bytes;
    }

    fn fault<T>(&self, problem: impl Into<String>) -> Result<T, Fault> {
        Err(Fault::Syntax { line: self.line, problem: problem.into() })
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn data(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Token::Data(text.into()));
        }
    }

    /// Text up to the next tag, and the tag.
    fn outside(&mut self) -> Result<(), Fault> {
        let rest = self.rest();
        let begins = memchr::memchr_iter(b'{', rest.as_bytes())
            .find(|&at| matches!(rest.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')));
        let Some(begin) = begins else {
            self.data(rest);
            self.skip(rest.len());
            return Ok(());
        };
        let kind = rest.as_bytes()[begin + 1];
        let (sign, length) = match rest.as_bytes().get(begin + 2) {
            Some(b'-') => (b'-', 3),
            Some(b'+') => (b'+', 3),
            _ => (b' ', 2),
        };
        let text = self.before_tag(&rest[..begin], sign, kind == b'{');
        self.data(text);
        self.skip(begin);
        match kind {
            b'#' => self.comment(length),
            b'%' if is_raw(&rest[begin + length..]).is_some() => self.raw(length),
            b'%' => {
                self.push(Token::BlockBegin);
                self.skip(length);
                self.inside(false)
            }
            _ => {
                self.push(Token::PrintBegin);
                self.skip(length);
                self.inside(true)
            }
        }
    }

    /// What is left of the text in front of a tag.
    fn before_tag<'t>(&self, text: &'t str, sign: u8, print: bool) -> &'t str {
        if sign == b'-' {
            return text.trim_end_matches(blank);
        }
        if sign == b'+' || print {
            return text;
        }
        let line = text.rfind('\n').map_or(0, |at| at + 1);
        let line_starts = line > 0 || self.at == 0 || self.source.as_bytes()[self.at - 1] == b'\n';
        let blanks = text.len() > line && text[line..].chars().all(blank);
        if line_starts && blanks { &text[..line] } else { text }
    }

    fn comment(&mut self, length: usize) -> Result<(), Fault> {
        let Some(end) = self.rest()[length..].find("#}").map(|at| at + length) else {
            return self.fault("a comment that never ends");
        };
        let sign = self.rest().as_bytes()[end - 1];
        let trim = end > length && sign == b'-';
        let keep = end > length && sign == b'+';
        self.skip(end + 2);
        self.behind_tag(trim, keep);
        Ok(())
    }

    /// `{% raw %}…{% endraw %}`.
    fn raw(&mut self, length: usize) -> Result<(), Fault> {
        let (inside, strips) = is_raw(&self.rest()[length..]).unwrap_or((0, false));
        self.skip(length + inside);
        if strips {
            self.behind_tag(true, false);
        }
        let rest = self.rest();
        for (begin, _) in rest.match_indices("{%") {
            let sign = rest.as_bytes().get(begin + 2).copied().unwrap_or(b' ');
            let signed = usize::from(sign == b'-' || sign == b'+');
            let tag = &rest[begin + 2 + signed..];
            let Some(name) = tag.trim_start_matches(blank).strip_prefix("endraw") else { continue };
            let behind = name.trim_start_matches(blank);
            let (trim, keep, close) = match behind.as_bytes() {
                [b'-', b'%', b'}', ..] => (true, false, 3),
                [b'+', b'%', b'}', ..] => (false, true, 3),
                [b'%', b'}', ..] => (false, false, 2),
                _ => continue,
            };
            let text = self.before_tag(&rest[..begin], if signed == 1 { sign } else { b' ' }, false);
            self.data(text);
            self.skip(rest.len() - behind.len() + close);
            self.behind_tag(trim, keep);
            return Ok(());
        }
        self.fault("{% raw %} never ends")
    }

    /// Blanks behind a tag that ends with `-`, or the line break behind any other.
    fn behind_tag(&mut self, trim: bool, keep: bool) {
        let rest = self.rest();
        if trim {
            self.skip(rest.len() - rest.trim_start_matches(blank).len());
        } else if !keep && rest.starts_with('\n') {
            self.skip(1);
        }
    }

    /// The tokens of a tag, and its end.
    fn inside(&mut self, print: bool) -> Result<(), Fault> {
        let mut open = Vec::new();
        loop {
            let rest = self.rest();
            let skipped = rest.len() - rest.trim_start_matches(blank).len();
            let ends_here = open.is_empty() && self.tag_end(print);
            if ends_here {
                return Ok(());
            }
            if skipped > 0 {
                self.skip(skipped);
                continue;
            }
            let Some(first) = rest.chars().next() else {
                return self.fault("a tag that never ends");
            };
            match first {
                '0'..='9' => self.number()?,
                '"' | '\'' => self.string(first)?,
                c if c == '_' || c.is_alphabetic() => {
                    let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
                    self.push(Token::Name(rest[..end].into()));
                    self.skip(end);
                }
                _ => self.operator(&mut open)?,
            }
        }
    }

    fn tag_end(&mut self, print: bool) -> bool {
        let (close, token) = if print { ("}}", Token::PrintEnd) } else { ("%}", Token::BlockEnd) };
        let rest = self.rest();
        let (trim, keep, length) = match rest.as_bytes().first() {
            Some(b'-') if rest[1..].starts_with(close) => (true, false, 3),
            Some(b'+') if !print && rest[1..].starts_with(close) => (false, true, 3),
            _ if rest.starts_with(close) => (false, false, 2),
            _ => return false,
        };
        self.push(token);
        self.skip(length);
        self.behind_tag(trim, keep || print);
        true
    }

    fn operator(&mut self, open: &mut Vec<&'static str>) -> Result<(), Fault> {
        let rest = self.rest();
        let Some(operator) = OPERATORS.into_iter().find(|o| rest.starts_with(o)) else {
            return self.fault(format!("unexpected {:?}", rest.chars().next().unwrap_or(' ')));
        };
        match operator {
            "(" => open.push(")"),
            "[" => open.push("]"),
            "{" => open.push("}"),
            ")" | "]" | "}" if open.pop() != Some(operator) => return self.fault(format!("unexpected `{operator}`")),
            _ => {}
        }
        self.push(Token::Operator(operator));
        self.skip(operator.len());
        Ok(())
    }

    /// `12`, `1_000`, `0xff`, `1.5`, `2e3`.
    fn number(&mut self) -> Result<(), Fault> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let digits =
            |from: usize| from + bytes[from..].iter().take_while(|b| b.is_ascii_digit() || **b == b'_').count();
        if bytes[0] == b'0' && bytes.len() > 1 {
            let radix = match bytes[1] | 32 {
                b'x' => 16,
                b'o' => 8,
                b'b' => 2,
                _ => 10,
            };
            let end = 2 + bytes[2..].iter().take_while(|b| char::from(**b).is_digit(radix) || **b == b'_').count();
            if radix != 10 && end > 2 {
                let value = i128::from_str_radix(&rest[2..end].replace('_', ""), radix);
                self.push(Token::Int(value.or_else(|_| self.fault("a number that is too large"))?));
                self.skip(end);
                return Ok(());
            }
        }
        let whole = digits(0);
        let mut end = whole;
        // `list.0.1` is two items and not a fraction.
        let item = matches!(self.tokens.last(), Some((Token::Operator("."), _)));
        if !item && bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
            end = digits(end + 1);
        }
        if !item && bytes.get(end).is_some_and(|b| b | 32 == b'e') {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
                end = digits(end + 1 + sign);
            }
        }
        let text = rest[..end].replace('_', "");
        let token = if end == whole {
            text.parse()
                .map(Token::Int)
                .ok()
                .filter(|_| text == "0" || !text.starts_with('0') || text.bytes().all(|b| b == b'0'))
        } else {
            text.parse().map(Token::Float).ok()
        };
        let Some(token) = token else { return self.fault(format!("`{text}` is not a number here")) };
        self.push(token);
        self.skip(end);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<(), Fault> {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest[1..].find(|c: char| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some(end) = end.map(|at| at + 1) else { return self.fault("a text that never ends") };
        let text = unescape(&rest[1..end]).or_else(|problem| self.fault(problem))?;
        self.push(Token::Text(text));
        self.skip(end + 1);
        Ok(())
    }
}

/// What Jinja2's `\s` matches.
pub(super) fn blank(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// How long ` raw %}` is, and whether it strips what follows.
fn is_raw(tag: &str) -> Option<(usize, bool)> {
    let behind = tag.trim_start_matches(blank).strip_prefix("raw")?.trim_start_matches(blank);
    let close = if behind.starts_with("-%}") { 3 } else { usize::from(behind.starts_with("%}")) * 2 };
    (close > 0).then(|| (tag.len() - behind.len() + close, close == 3))
}

/// Python's escapes.
fn unescape(raw: &str) -> Result<String, &'static str> {
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        let code = |digits: usize, chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut value = 0;
            for _ in 0..digits {
                let digit = chars.next().and_then(|c| c.to_digit(16)).ok_or("an escape that ends too soon")?;
                value = value * 16 + digit;
            }
            char::from_u32(value).ok_or("an escape that is no character")
        };
        match chars.next() {
            Some('\n') => {}
            Some(c @ ('\\' | '\'' | '"')) => text.push(c),
            Some('a') => text.push('\x07'),
            Some('b') => text.push('\x08'),
            Some('f') => text.push('\x0c'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('t') => text.push('\t'),
            Some('v') => text.push('\x0b'),
            Some('x') => text.push(code(2, &mut chars)?),
            Some('u') => text.push(code(4, &mut chars)?),
            Some('U') => text.push(code(8, &mut chars)?),
            Some('N') => return Err("a character by its name"),
            Some(first @ '0'..='7') => {
                let mut value = first as u32 - 48;
                for _ in 0..2 {
                    let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) else { break };
                    value = value * 8 + digit;
                    chars.next();
                }
                text.push(char::from_u32(value).unwrap_or('\u{fffd}'));
            }
            Some(other) => text.extend(['\\', other]),
            None => return Err("a text that ends with a backslash"),
        }
    }
    Ok(text)
}
