//! Python's `str` and `repr`.

use super::budget::Budget;
use super::fault::Fault;
use super::text::{Text, Writer};
use super::value::{Value, View};
use crate::record::pyjson;

/// `str(value)`.
pub(super) fn text_of(budget: &Budget, value: &Value) -> Result<Text, Fault> {
    if let Some(text) = value.as_text() {
        return Ok(text.clone());
    }
    let mut writer = Writer::new(budget);
    write(&mut writer, value)?;
    Ok(writer.finish())
}

/// Writes `str(value)`.
pub(super) fn write(out: &mut Writer<'_>, value: &Value) -> Result<(), Fault> {
    match value {
        Value::Undefined(_) => Ok(()),
        Value::Text(text) | Value::Safe(text) => out.text(text),
        other => repr(out, other),
    }
}

/// Writes `repr(value)`.
pub(super) fn repr(out: &mut Writer<'_>, value: &Value) -> Result<(), Fault> {
    match value {
        Value::Undefined(_) => out.own("Undefined"),
        Value::None => out.own("None"),
        Value::Bool(b) => out.own(if *b { "True" } else { "False" }),
        Value::Int(i) => out.own(&i.to_string()),
        Value::Float(f) => out.own(&float(*f)),
        Value::Text(text) => quoted(out, text),
        Value::Safe(text) => {
            out.own("Markup(")?;
            quoted(out, text)?;
            out.own(")")
        }
        Value::List(items) => list(out, "[", &items.items, "]"),
        Value::Tuple(items) => match items.items.as_slice() {
            [only] => {
                out.own("(")?;
                repr(out, only)?;
                out.own(",)")
            }
            items => list(out, "(", items, ")"),
        },
        Value::Dict(dict) => {
            out.own("{")?;
            for (i, (key, value)) in dict.entries().iter().enumerate() {
                out.own(if i > 0 { ", " } else { "" })?;
                repr(out, key)?;
                out.own(": ")?;
                repr(out, value)?;
            }
            out.own("}")
        }
        Value::Range(range) if range.step == 1 => out.own(&format!("range({}, {})", range.start, range.stop)),
        Value::Range(range) => out.own(&format!("range({}, {}, {})", range.start, range.stop, range.step)),
        Value::View(view, dict) => {
            out.own(value.kind())?;
            out.own("([")?;
            for (i, (key, value)) in dict.entries().iter().enumerate() {
                out.own(if i > 0 { ", " } else { "" })?;
                match view {
                    View::Keys => repr(out, key)?,
                    View::Values => repr(out, value)?,
                    View::Items => {
                        out.own("(")?;
                        repr(out, key)?;
                        out.own(", ")?;
                        repr(out, value)?;
                        out.own(")")?;
                    }
                }
            }
            out.own("])")
        }
        other => Err(Fault::unsupported(format!("a {} as text", other.kind()))),
    }
}

fn list(out: &mut Writer<'_>, open: &str, items: &[Value], close: &str) -> Result<(), Fault> {
    out.own(open)?;
    for (i, item) in items.iter().enumerate() {
        out.own(if i > 0 { ", " } else { "" })?;
        repr(out, item)?;
    }
    out.own(close)
}

/// `repr` of a text.
fn quoted(out: &mut Writer<'_>, text: &Text) -> Result<(), Fault> {
    let chars = text.as_str();
    let quote = if chars.contains('\'') && !chars.contains('"') { '"' } else { '\'' };
    out.push_char(quote, 0)?;
    for (_, c, origin) in text.each() {
        match c {
            '\n' => out.push("\\n", origin)?,
            '\r' => out.push("\\r", origin)?,
            '\t' => out.push("\\t", origin)?,
            '\\' => out.push("\\\\", origin)?,
            c if c == quote => out.push(&format!("\\{c}"), origin)?,
            c if is_printable(c) => out.push_char(c, origin)?,
            c => {
                let code = c as u32;
                let escaped = match code {
                    0..=0xff => format!("\\x{code:02x}"),
                    0x100..=0xffff => format!("\\u{code:04x}"),
                    _ => format!("\\U{code:08x}"),
                };
                out.push(&escaped, origin)?;
            }
        }
    }
    out.push_char(quote, 0)
}

/// Python's `str.isprintable`, for one character.
pub(super) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // Behind another character Rust escapes exactly what is not printable: it goes by the same categories.
    let pair: String = ['a', c].iter().collect();
    pair.escape_debug().eq(pair.chars())
}

/// `repr` of a float.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        "nan".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "inf" } else { "-inf" }.to_owned()
    } else {
        pyjson::float(value)
    }
}
