//! JSON as Python's `json.dumps(…, ensure_ascii=False)` writes it, which is what chat templates call `tojson`.

use serde_json::Value;

/// The options of Python's `json.dumps` that chat templates use.
#[derive(Debug, Default)]
pub(crate) struct Style {
    pub(crate) ensure_ascii: bool,
    pub(crate) sort_keys: bool,
    /// Blanks per level; unset: all on one line.
    pub(crate) indent: Option<usize>,
    /// Between items, and between a key and its value.
    pub(crate) separators: Option<[String; 2]>,
}

/// `value` with Python's separators, `", "` and `": "`.
pub(crate) fn dumps(value: &Value) -> String {
    dumps_as(value, &Style::default())
}

/// `value` with other options.
pub(crate) fn dumps_as(value: &Value, style: &Style) -> String {
    let mut out = String::new();
    write(value, style, 0, &mut out);
    out
}

/// A text as it stands between the quotes of a JSON string.
pub(crate) fn escaped(text: &str) -> String {
    let json = Value::from(text).to_string();
    json[1..json.len() - 1].to_owned()
}

fn write(value: &Value, style: &Style, depth: usize, out: &mut String) {
    match value {
        Value::Array(items) => {
            list('[', ']', items.iter(), style, depth, out, |item, out| write(item, style, depth + 1, out));
        }
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().collect();
            if style.sort_keys {
                pairs.sort_by_key(|(key, _)| *key);
            }
            let colon = style.separators.as_ref().map_or(": ", |s| &s[1]);
            list('{', '}', pairs.into_iter(), style, depth, out, |(key, item), out| {
                string(key, style, out);
                out.push_str(colon);
                write(item, style, depth + 1, out);
            });
        }
        Value::String(text) => string(text, style, out),
        Value::Number(number) if number.is_f64() => out.push_str(&float(number.as_f64().unwrap_or(f64::NAN))),
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn list<T>(
    open: char,
    close: char,
    items: impl ExactSizeIterator<Item = T>,
    style: &Style,
    depth: usize,
    out: &mut String,
    mut item: impl FnMut(T, &mut String),
) {
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = style.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let comma = match (&style.separators, style.indent) {
        (Some(separators), _) => separators[0].as_str(),
        (None, Some(_)) => ",",
        (None, None) => ", ",
    };
    let empty = items.len() == 0;
    out.push(open);
    for (i, value) in items.enumerate() {
        if i > 0 {
            out.push_str(comma);
        }
        line(depth + 1, out);
        item(value, out);
    }
    if !empty {
        line(depth, out);
    }
    out.push(close);
}

fn string(text: &str, style: &Style, out: &mut String) {
    let json = Value::from(text).to_string();
    if !style.ensure_ascii {
        out.push_str(&json);
        return;
    }
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
}

/// Python's `repr` of a float: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
fn float(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        match text.split_once('e') {
            Some((digits, exponent)) => {
                let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |rest| ("-", rest));
                format!("{digits}e{sign}{exponent:0>2}")
            }
            None => text,
        }
    } else {
        format!("{value:?}")
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn writes_as_python_does() {
        let value: serde_json::Value = serde_json::from_str(r#"{"b":[1,2.5,null,true],"a":{"é":"\n\"x"}}"#).unwrap();
        assert_eq!(super::dumps(&value), r#"{"b": [1, 2.5, null, true], "a": {"é": "\n\"x"}}"#);
        for (json, python) in [
            ("1e5", "100000.0"),
            ("1e16", "1e+16"),
            ("-2.5e-7", "-2.5e-07"),
            ("0.0001", "0.0001"),
            ("1.5e300", "1.5e+300"),
            ("-0.0", "-0.0"),
            ("3", "3"),
        ] {
            assert_eq!(super::dumps(&serde_json::from_str(json).unwrap()), python);
        }
    }
}
