//! Upper and lower case, as Python changes it.

use super::budget::Budget;
use super::fault::Fault;
use super::text::{Origin, Text, Writer};

/// `text.name()`, if that is a method that changes the case.
pub(super) fn method(budget: &Budget, text: &Text, name: &str) -> Option<Result<Text, Fault>> {
    Some(match name {
        "lower" => lower(budget, text),
        "upper" => upper(budget, text),
        "capitalize" => capitalize(budget, text),
        "title" => title(budget, text),
        "swapcase" => swap(budget, text),
        "casefold" => casefold(budget, text),
        _ => return None,
    })
}

pub(super) fn lower(budget: &Budget, text: &Text) -> Result<Text, Fault> {
    // Of the whole: the last sigma of a word has a form of its own, which is as long as the other.
    let whole = text.as_str().to_lowercase();
    let mut out = Writer::new(budget);
    let mut at = 0;
    for (_, c, origin) in text.each() {
        let length: usize = c.to_lowercase().map(char::len_utf8).sum();
        out.push(whole.get(at..at + length).unwrap_or_default(), origin)?;
        at += length;
    }
    Ok(out.finish())
}

pub(super) fn upper(budget: &Budget, text: &Text) -> Result<Text, Fault> {
    let mut out = Writer::new(budget);
    for (_, c, origin) in text.each() {
        c.to_uppercase().try_for_each(|c| out.push_char(c, origin))?;
    }
    Ok(out.finish())
}

/// The first character in title case, the others in lower case.
pub(super) fn capitalize(budget: &Budget, text: &Text) -> Result<Text, Fault> {
    let mut out = Writer::new(budget);
    let low = lower(budget, text)?;
    if let Some((_, first, origin)) = text.each().next() {
        push_title(&mut out, first, origin)?;
        let length = first.to_lowercase().map(char::len_utf8).sum();
        out.part(&low, length..low.as_str().len())?;
    }
    Ok(out.finish())
}

fn title(budget: &Budget, text: &Text) -> Result<Text, Fault> {
    let mut out = Writer::new(budget);
    let mut inside = false;
    for (_, c, origin) in text.each() {
        if inside {
            not_final_sigma(c)?;
            c.to_lowercase().try_for_each(|c| out.push_char(c, origin))?;
        } else {
            push_title(&mut out, c, origin)?;
        }
        inside = is_cased(c);
    }
    Ok(out.finish())
}

fn swap(budget: &Budget, text: &Text) -> Result<Text, Fault> {
    let mut out = Writer::new(budget);
    for (_, c, origin) in text.each() {
        not_final_sigma(c)?;
        if c.is_uppercase() {
            c.to_lowercase().try_for_each(|c| out.push_char(c, origin))?;
        } else {
            push_upper(&mut out, c, origin)?;
        }
    }
    Ok(out.finish())
}

fn casefold(budget: &Budget, text: &Text) -> Result<Text, Fault> {
    if text.as_str().is_ascii() { lower(budget, text) } else { Err(Fault::unsupported("casefold beyond ASCII")) }
}

fn push_upper(out: &mut Writer<'_>, c: char, origin: Origin) -> Result<(), Fault> {
    c.to_uppercase().try_for_each(|c| out.push_char(c, origin))
}

/// Title case is upper case, but for a few letters of which Rust does not know it.
fn push_title(out: &mut Writer<'_>, c: char, origin: Origin) -> Result<(), Fault> {
    let georgian = matches!(c, '\u{10d0}'..='\u{10ff}');
    let two_in_one = matches!(c, '\u{1c4}'..='\u{1cc}' | '\u{1f1}'..='\u{1f3}');
    if georgian || two_in_one || c.to_uppercase().len() > 1 {
        return Err(Fault::unsupported(format!("the title case of `{c}`")));
    }
    push_upper(out, c, origin)
}

fn not_final_sigma(c: char) -> Result<(), Fault> {
    if c == 'Σ' { Err(Fault::unsupported("the title case of `Σ`")) } else { Ok(()) }
}

/// Whether the character has a case.
pub(super) fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || matches!(c, '\u{1c5}' | '\u{1c8}' | '\u{1cb}' | '\u{1f2}')
}
