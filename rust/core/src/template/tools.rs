//! The tools that a conversation offers.

use serde_json::{Value, json};

/// The tools of an offer in JSON, each as OpenAI's interface has it: one that stands bare, as ShareGPT files have them,
/// is wrapped into `{"type": "function", "function": …}`, as servers and LLaMA-Factory do. With them: whether one was.
/// None: the offer is not a JSON list or object.
pub(super) fn offered(text: &str) -> Option<(Vec<Value>, bool)> {
    let tools = match serde_json::from_str(text) {
        Ok(Value::Array(list)) => list,
        Ok(one @ Value::Object(_)) => vec![one],
        _ => return None,
    };
    let bare =
        |tool: &Value| tool.get("name").is_some() && tool.get("function").is_none() && tool.get("type").is_none();
    let wrapped = tools.iter().any(bare);
    let wrap = |tool| if bare(&tool) { json!({ "type": "function", "function": tool }) } else { tool };
    Some((tools.into_iter().map(wrap).collect(), wrapped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_tools_are_wrapped_and_others_are_not() {
        let (tools, wrapped) = offered(r#"[{"name": "f"}, {"type": "function", "function": {"name": "g"}}]"#).unwrap();
        assert!(wrapped);
        assert_eq!(tools[0]["function"]["name"], "f");
        assert_eq!(tools[1]["function"]["name"], "g");
        assert_eq!(offered("{}").unwrap(), (vec![json!({})], false));
        assert_eq!(offered("a tool"), None);
    }
}
