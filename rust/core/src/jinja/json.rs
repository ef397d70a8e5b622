//! transformers' filter `tojson`: Python's `json.dumps`, which does not escape for HTML as Jinja2's own does.

use super::arguments::Given;
use super::budget::Budget;
use super::fault::Fault;
use super::operators::compare;
use super::print::{float, text_of};
use super::sorted::sorted;
use super::text::{TEMPLATE, Text, Writer};
use super::value::Value;

struct Style {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<Text>,
    comma: Text,
    colon: Text,
}

/// `value | tojson(…)`.
pub(super) fn tojson(budget: &Budget, value: &Value, given: Given) -> Result<Text, Fault> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ensure_ascii, indent, separators, sort_keys] = given.bind("tojson", names, 0)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Text(text)) => Some(text),
        Some(Value::Int(n)) => {
            let mut blanks = Writer::new(budget);
            blanks.repeat(&Text::plain(" "), usize::try_from(n.max(0)).unwrap_or(usize::MAX))?;
            Some(blanks.finish())
        }
        Some(Value::Bool(b)) => Some(Text::plain(" ".repeat(usize::from(b)))),
        Some(other) => return Err(Fault::failed(format!("an indent cannot be a {}", other.kind()))),
    };
    let (comma, colon) = match separators {
        None | Some(Value::None) => (Text::plain(if indent.is_some() { "," } else { ", " }), Text::plain(": ")),
        Some(Value::Tuple(pair) | Value::List(pair)) => match pair.items.as_slice() {
            [Value::Text(comma), Value::Text(colon)] => (comma.clone(), colon.clone()),
            _ => return Err(Fault::failed("separators must be two texts")),
        },
        Some(_) => return Err(Fault::failed("separators must be two texts")),
    };
    let truth = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let style = Style { ensure_ascii: truth(ensure_ascii), sort_keys: truth(sort_keys), indent, comma, colon };
    let mut out = Writer::new(budget);
    write(&mut out, value, &style, 0)?;
    Ok(out.finish())
}

fn write(out: &mut Writer<'_>, value: &Value, style: &Style, depth: usize) -> Result<(), Fault> {
    out.budget().steps(1)?;
    match value {
        Value::Text(text) | Value::Safe(text) => quoted(out, text, style.ensure_ascii),
        Value::List(items) | Value::Tuple(items) => {
            list(out, ["[", "]"], &items.items, style, depth, |out, item| write(out, item, style, depth + 1))
        }
        Value::Dict(dict) => {
            let mut entries: Vec<_> = dict.entries().iter().collect();
            if style.sort_keys {
                entries = sorted(out.budget(), entries, |(a, _), (b, _)| compare(out.budget(), a, b))?;
            }
            list(out, ["{", "}"], &entries, style, depth, |out, (key, value)| {
                match key {
                    Value::Text(text) => quoted(out, text, style.ensure_ascii)?,
                    Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                        let shown = text_of(out.budget(), &scalar(key))?;
                        out.own("\"")?;
                        out.text(&shown)?;
                        out.own("\"")?;
                    }
                    other => return Err(Fault::failed(format!("a {} is no key in JSON", other.kind()))),
                }
                out.text(&style.colon)?;
                write(out, value, style, depth + 1)
            })
        }
        Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
            let shown = text_of(out.budget(), &scalar(value))?;
            out.text(&shown)
        }
        other => Err(Fault::failed(format!("a {} is not JSON serializable", other.kind()))),
    }
}

/// How JSON spells what is no text.
fn scalar(value: &Value) -> Value {
    Value::own(match value {
        Value::Bool(true) => "true".to_owned(),
        Value::Bool(false) => "false".to_owned(),
        Value::Int(i) => i.to_string(),
        Value::Float(f) if f.is_nan() => "NaN".to_owned(),
        Value::Float(f) if f.is_infinite() => if *f > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        Value::Float(f) => float(*f),
        _ => "null".to_owned(),
    })
}

fn list<T>(
    out: &mut Writer<'_>,
    [open, close]: [&str; 2],
    items: &[T],
    style: &Style,
    depth: usize,
    mut item: impl FnMut(&mut Writer<'_>, &T) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let line = |out: &mut Writer<'_>, depth: usize| match &style.indent {
        Some(indent) => {
            out.own("\n")?;
            out.repeat(indent, depth)
        }
        None => Ok(()),
    };
    out.own(open)?;
    for (i, value) in items.iter().enumerate() {
        if i > 0 {
            out.text(&style.comma)?;
        }
        line(out, depth + 1)?;
        item(out, value)?;
    }
    if !items.is_empty() {
        line(out, depth)?;
    }
    out.own(close)
}

fn quoted(out: &mut Writer<'_>, text: &Text, ensure_ascii: bool) -> Result<(), Fault> {
    out.push("\"", TEMPLATE)?;
    let chars = text.as_str();
    for (run, origin) in text.runs(0..chars.len()) {
        let mut from = run.start;
        for (at, c) in chars[run.clone()].char_indices().map(|(at, c)| (run.start + at, c)) {
            let escaped = match c {
                '"' => "\\\"".to_owned(),
                '\\' => "\\\\".to_owned(),
                '\n' => "\\n".to_owned(),
                '\r' => "\\r".to_owned(),
                '\t' => "\\t".to_owned(),
                '\x08' => "\\b".to_owned(),
                '\x0c' => "\\f".to_owned(),
                c if (c as u32) < 0x20 => format!("\\u{:04x}", c as u32),
                c if ensure_ascii && !(' '..='~').contains(&c) => {
                    c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
                }
                _ => continue,
            };
            out.push(&chars[from..at], origin)?;
            out.push(&escaped, origin)?;
            from = at + c.len_utf8();
        }
        out.push(&chars[from..run.end], origin)?;
    }
    out.push("\"", TEMPLATE)
}
