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
                if i > 0 {
                    out.push_str(", ");
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push_str(": ");
                write(item, out);
            }
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn writes_as_python_does() {
        let value: serde_json::Value = serde_json::from_str(r#"{"b":[1,2.5,null,true],"a":{"é":"\n\"x"}}"#).unwrap();
        assert_eq!(super::dumps(&value), r#"{"b": [1, 2.5, null, true], "a": {"é": "\n\"x"}}"#);
    }
}
