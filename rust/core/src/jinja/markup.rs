//! What the filter `safe` makes: a text that escapes for HTML what joins it, as markupsafe's `Markup` does.

use super::budget::Budget;
use super::fault::Fault;
use super::text::Writer;
use super::value::Value;

/// Whether a filter tells a safe text from another.
pub(super) fn takes(filter: &str) -> bool {
    matches!(filter, "string" | "safe" | "default" | "d" | "escape" | "e" | "forceescape")
}

/// What a filter gives of a safe text, from what it gave of a plain one.
pub(super) fn filtered(filter: &str, value: Value) -> Result<Value, Fault> {
    match filter {
        "upper" | "lower" | "capitalize" | "trim" | "center" | "reverse" | "indent" | "last" => Ok(safe(value)),
        "truncate" | "format" | "attr" => {
            Err(Fault::unsupported(format!("the filter `{filter}` of what the filter `safe` returned")))
        }
        _ => Ok(value),
    }
}

/// A text, as a safe one; other values as they are.
pub(super) fn safe(value: Value) -> Value {
    match value {
        Value::Text(text) => Value::Safe(text),
        other => other,
    }
}

/// `left + right`, of which one is safe: the other is escaped.
pub(super) fn add(budget: &Budget, left: &Value, right: &Value) -> Result<Value, Fault> {
    let mut writer = Writer::new(budget);
    for value in [left, right] {
        match value {
            Value::Text(_) => escaped(&mut writer, value)?,
            Value::Safe(text) => writer.text(text)?,
            other => return Err(Fault::failed(format!("Add of a Markup and a {}", other.kind()))),
        }
    }
    Ok(Value::Safe(writer.finish()))
}

/// A text as HTML shows it; a safe one stays as it is, unless it is done by `force`.
pub(super) fn escape(budget: &Budget, value: &Value, force: bool) -> Result<Value, Fault> {
    let mut writer = Writer::new(budget);
    match value {
        Value::Safe(text) if force => escaped(&mut writer, &Value::Text(text.clone()))?,
        value => escaped(&mut writer, value)?,
    }
    Ok(Value::Safe(writer.finish()))
}

fn escaped(out: &mut Writer<'_>, value: &Value) -> Result<(), Fault> {
    if let Value::Safe(text) = value {
        return out.text(text);
    }
    let text = super::print::text_of(out.budget(), value)?;
    for (_, c, origin) in text.each() {
        match c {
            '&' => out.push("&amp;", origin)?,
            '<' => out.push("&lt;", origin)?,
            '>' => out.push("&gt;", origin)?,
            '\'' => out.push("&#39;", origin)?,
            '"' => out.push("&#34;", origin)?,
            c => out.push_char(c, origin)?,
        }
    }
    Ok(())
}
