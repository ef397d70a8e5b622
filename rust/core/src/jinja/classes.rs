//! `str.isdigit` and its like.

use super::case::is_cased;
use super::fault::Fault;
use super::lexer::blank;
use super::print::is_printable;

/// `text.name()`, if that is a question for the kind of all characters.
pub(super) fn method(text: &str, name: &str) -> Option<Result<bool, Fault>> {
    let all = |test: fn(char) -> bool| Ok(!text.is_empty() && text.chars().all(test));
    let each = |test: fn(char) -> Result<bool, Fault>| {
        for c in text.chars() {
            if !test(c)? {
                return Ok(false);
            }
        }
        Ok(!text.is_empty())
    };
    Some(match name {
        "isspace" => all(blank),
        "isascii" => Ok(text.is_ascii()),
        "isprintable" => Ok(text.chars().all(is_printable)),
        "isupper" => Ok(text.chars().any(is_cased) && !text.chars().any(|c| is_cased(c) && !c.is_uppercase())),
        "islower" => Ok(text.chars().any(is_cased) && !text.chars().any(|c| is_cased(c) && !c.is_lowercase())),
        "isalpha" => each(is_letter),
        "isdigit" | "isdecimal" => each(|c| if is_ideograph(c) { Ok(false) } else { is_digit(c) }),
        "isnumeric" => each(is_digit),
        "isalnum" => each(|c| Ok(is_letter(c)? || is_digit(c)?)),
        "isidentifier" => {
            let letter = |c: char| if c.is_ascii() { Ok(c == '_' || c.is_ascii_alphabetic()) } else { is_letter(c) };
            identifier(text, letter)
        }
        "istitle" => istitle(text),
        _ => return None,
    })
}

fn identifier(text: &str, letter: impl Fn(char) -> Result<bool, Fault>) -> Result<bool, Fault> {
    for (i, c) in text.chars().enumerate() {
        if !(letter(c)? || i > 0 && c.is_ascii_digit()) {
            return if c.is_ascii() { Ok(false) } else { Err(Fault::unsupported(format!("the kind of `{c}`"))) };
        }
    }
    Ok(!text.is_empty())
}

fn istitle(text: &str) -> Result<bool, Fault> {
    if !text.is_ascii() {
        return Err(Fault::unsupported("istitle beyond ASCII"));
    }
    let (mut inside, mut any) = (false, false);
    for c in text.chars() {
        if (c.is_ascii_uppercase() && inside) || (c.is_ascii_lowercase() && !inside) {
            return Ok(false);
        }
        inside = c.is_ascii_alphabetic();
        any |= inside;
    }
    Ok(any)
}

/// Rust's alphabetic characters are Python's letters and more: marks, and numbers made of letters.
fn is_letter(c: char) -> Result<bool, Fault> {
    if c.is_ascii() {
        return Ok(c.is_ascii_alphabetic());
    }
    if !c.is_alphabetic() {
        return Ok(false);
    }
    let plain = c.is_lowercase() || c.is_uppercase() || is_common_letter(c);
    if plain && !c.is_numeric() { Ok(true) } else { Err(Fault::unsupported(format!("whether `{c}` is a letter"))) }
}

/// Scripts whose alphabetic characters are letters without exception.
fn is_common_letter(c: char) -> bool {
    matches!(c,
        '\u{aa}' | '\u{ba}' | '\u{c0}'..='\u{2af}' | '\u{370}'..='\u{3ff}' | '\u{400}'..='\u{481}' | '\u{48a}'..='\u{52f}'
        | '\u{531}'..='\u{556}' | '\u{5d0}'..='\u{5ea}' | '\u{620}'..='\u{64a}' | '\u{e01}'..='\u{e30}'
        | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{3105}'..='\u{312f}' | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}')
}

fn is_digit(c: char) -> Result<bool, Fault> {
    if c.is_ascii() {
        return Ok(c.is_ascii_digit());
    }
    // Numbers of other scripts, and characters that stand for numbers (fractions, 三), are digits for some of these.
    if c.is_numeric() || is_ideograph(c) {
        return Err(Fault::unsupported(format!("whether `{c}` is a number")));
    }
    Ok(false)
}

fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}
