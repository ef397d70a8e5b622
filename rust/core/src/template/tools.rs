//! The tools that a conversation offers.

use crate::reasons::Notice;
use serde_json::{Value, json};

/// The tools on offer, and what was done to them.
#[derive(Debug, PartialEq)]
pub(super) struct Offer {
    pub(super) tools: Vec<Value>,
    pub(super) notices: Vec<Notice>,
}

/// The tools of an offer in JSON, each as OpenAI's interface has it: one that stands bare, as ShareGPT files have them,
/// is wrapped into `{"type": "function", "function": …}`, as servers and LLaMA-Factory do. One that is JSON in a text is
/// what it says. A parameter that is null goes: tables (Arrow, and so Parquet and `datasets`) have one wherever the tool of
/// another row has a parameter of that name, and no schema is null.
/// None: the offer is neither an object nor a list of objects.
pub(super) fn offered(text: &str) -> Option<Offer> {
    let mut tools = match serde_json::from_str(text) {
        Ok(Value::Array(list)) => list.into_iter().map(object).collect::<Option<Vec<_>>>()?,
        Ok(one) => vec![object(one)?],
        Err(_) => return None,
    };
    let nulls = tools.iter_mut().fold(false, |found, tool| leave_nulls_out(tool) | found);
    let bare =
        |tool: &Value| tool.get("name").is_some() && tool.get("function").is_none() && tool.get("type").is_none();
    let wrapped = tools.iter().any(bare);
    let wrap = |tool| if bare(&tool) { json!({ "type": "function", "function": tool }) } else { tool };
    let tools = tools.into_iter().map(wrap).collect();
    let done = [(nulls, Notice::ToolsNullsLeftOut), (wrapped, Notice::ToolsWrapped)];
    Some(Offer { tools, notices: done.into_iter().filter_map(|(is, notice)| is.then_some(notice)).collect() })
}

/// An object, if it is one or is one as JSON in a text.
fn object(value: Value) -> Option<Value> {
    match value {
        Value::Object(_) => Some(value),
        Value::String(text) => serde_json::from_str(&text).ok().filter(Value::is_object),
        _ => None,
    }
}

/// Removes the parameters that are null. Whether there was one.
fn leave_nulls_out(schema: &mut Value) -> bool {
    match schema {
        Value::Object(entries) => entries.iter_mut().fold(false, |found, (key, value)| match value {
            // Its values are schemas; it is none itself, and a parameter may have the name `properties`.
            Value::Object(parameters) if key == "properties" => {
                let before = parameters.len();
                parameters.retain(|_, schema| !schema.is_null());
                let found = found | (parameters.len() < before);
                parameters.values_mut().fold(found, |found, schema| leave_nulls_out(schema) | found)
            }
            value => leave_nulls_out(value) | found,
        }),
        Value::Array(items) => items.iter_mut().fold(false, |found, item| leave_nulls_out(item) | found),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_tools_are_wrapped_and_others_are_not() {
        let Offer { tools, notices } =
            offered(r#"[{"name": "f"}, {"type": "function", "function": {"name": "g"}}]"#).unwrap();
        assert_eq!(notices, [Notice::ToolsWrapped]);
        assert_eq!(tools[0]["function"]["name"], "f");
        assert_eq!(tools[1]["function"]["name"], "g");
        assert_eq!(offered("{}").unwrap(), Offer { tools: vec![json!({})], notices: vec![] });
        assert_eq!(offered("a tool"), None);
    }

    #[test]
    fn a_tool_in_a_text_is_what_it_says_and_a_name_is_none() {
        let plain = offered(r#"[{"type": "function", "function": {"name": "f"}}]"#);
        assert_eq!(offered(r#"["{\"type\": \"function\", \"function\": {\"name\": \"f\"}}"]"#), plain);
        assert_eq!(offered(r#""{\"type\": \"function\", \"function\": {\"name\": \"f\"}}""#), plain);
        for other in [r#"["f"]"#, "[1]", "[null]", r#"[["f"]]"#, r#""f""#, "null"] {
            assert_eq!(offered(other), None, "{other}");
        }
    }

    #[test]
    fn parameters_that_are_null_go_and_other_nulls_stay() {
        let of = |properties: &str| {
            let parameters = format!(r#"{{"properties": {properties}, "required": null}}"#);
            offered(&format!(r#"[{{"type": "function", "function": {{"name": "f", "parameters": {parameters}}}}}]"#))
                .unwrap()
        };
        let padded = of(r#"{"x": {"type": "object", "properties": {"in": {"enum": null}, "z": null}}, "y": null}"#);
        assert_eq!(padded.notices, [Notice::ToolsNullsLeftOut]);
        let left = json!({
            "properties": {"x": {"type": "object", "properties": {"in": {"enum": null}}}}, "required": null
        });
        assert_eq!(padded.tools[0]["function"]["parameters"], left);
        let kept = r#"{"x": {"type": ["string", "null"], "default": null, "enum": ["a", null]}}"#;
        assert_eq!(of(kept).notices, []);
        assert_eq!(of(r#"{"properties": {"type": "object", "default": null}}"#).notices, []);
    }
}
