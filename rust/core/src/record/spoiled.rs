//! Records that are JSON but for values that JSON cannot hold: halves of surrogate pairs, numbers that are not finite.
//!
//! Python's `json.dumps` writes both. They cost their row, not the file, in which everything around them can be read.

use crate::reasons::Reason;
use serde::de::IgnoredAny;

/// Why a record that is not JSON cannot be used, if such values are all that is wrong with it; and the record with
/// others in their place, which are JSON.
pub(super) fn repaired(record: &str) -> Option<(Reason, String)> {
    let mut found = None;
    let mut repaired = String::with_capacity(record.len());
    let mut rest = record;
    while let Some(quote) = rest.find('"') {
        bare(&rest[..quote], &mut repaired, &mut found);
        let inside = &rest[quote + 1..];
        let end = end_of_string(inside)?;
        repaired.push('"');
        text(&inside[..end], &mut repaired, &mut found);
        repaired.push('"');
        rest = &inside[end + 1..];
    }
    bare(rest, &mut repaired, &mut found);
    let reason = found.filter(|_| serde_json::from_str::<IgnoredAny>(&repaired).is_ok())?;
    Some((reason, repaired))
}

/// The place of the quote that ends a string.
fn end_of_string(inside: &str) -> Option<usize> {
    let bytes = inside.as_bytes();
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Copies what stands between strings; numbers that are not finite become null.
fn bare(between: &str, out: &mut String, found: &mut Option<Reason>) {
    let is_border = |c: char| matches!(c, '[' | ']' | '{' | '}' | ',' | ':') || c.is_ascii_whitespace();
    for piece in between.split_inclusive(is_border) {
        let (token, border) = piece.split_at(piece.len() - usize::from(piece.ends_with(is_border)));
        let number = token.strip_prefix('-').unwrap_or(token);
        let overflows =
            || number.starts_with(|c: char| c.is_ascii_digit()) && number.parse().is_ok_and(f64::is_infinite);
        if matches!(token, "NaN" | "Infinity" | "-Infinity") || overflows() {
            *found = Some(Reason::NumberNotFinite);
            out.push_str("null");
        } else {
            out.push_str(token);
        }
        out.push_str(border);
    }
}

/// Copies the inside of a string; half a surrogate pair becomes the replacement character.
fn text(inside: &str, out: &mut String, found: &mut Option<Reason>) {
    let unit =
        |at: usize| inside.get(at..at + 6)?.strip_prefix("\\u").and_then(|hex| u16::from_str_radix(hex, 16).ok());
    let mut copied = 0;
    let mut at = 0;
    while let Some(next) = memchr::memchr(b'\\', &inside.as_bytes()[at..]) {
        at += next;
        let width = match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                *found = Some(Reason::LoneSurrogate);
                out.push_str(&inside[copied..at]);
                out.push_str("\\ufffd");
                copied = at + 6;
                6
            }
            _ => 2,
        };
        // A backslash and an ASCII character; anything else after one is not JSON, and is found to be invalid.
        at = (at + width).min(inside.len());
    }
    out.push_str(&inside[copied..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_that_json_cannot_hold_are_excused() {
        for (record, expected) in [
            (r#"{"a": "x\ud800"}"#, Some(Reason::LoneSurrogate)),
            (r#"{"a": "\udc00\ud83d"}"#, Some(Reason::LoneSurrogate)),
            (r#"{"a": NaN}"#, Some(Reason::NumberNotFinite)),
            (r#"{"a": [1,-Infinity , 2]}"#, Some(Reason::NumberNotFinite)),
            (r#"{"a": -1e400}"#, Some(Reason::NumberNotFinite)),
            (r#"{"a": "\ud83d\ude00 NaN \\ud800 \\"}"#, None),
            (r#"{"a": NaN, "b" 1}"#, None),
            (r#"{"a": nan}"#, None),
            (r#"{"a": "\ud800}"#, None),
            (r#"{"a": "\ud800é\"#, None),
            ("NaN", Some(Reason::NumberNotFinite)),
            ("", None),
        ] {
            assert_eq!(repaired(record).map(|(reason, _)| reason), expected, "{record}");
        }
    }
}
