//! JSON as Python's `json.dumps(…, ensure_ascii=False)` writes it, which is what chat templates call `tojson`.

use serde_json::Value;

/// `value` with Python's separators, `", "` and `": "`.
pub(crate) fn dumps(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push_str(": ");
                write(item, out);
            }
            out.push('}');
        }
        Value::Number(number) if number.is_f64() => out.push_str(&float(number.as_f64().unwrap_or(f64::NAN))),
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// Python's `repr` of a float: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
pub(crate) fn float(value: f64) -> String {
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
