//! A conversation as the values that templates take.

use crate::conversation::{Conversation, Message};
use crate::reasons::Reason;
use minijinja::value::{Serde, Value};

/// A part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Said,
    Thought,
    /// A text in a tool call: its name, a value among its arguments.
    Called,
}

/// Messages as templates take them; `text(message, part, content)` may put other words in place of a content.
pub(super) fn values(
    messages: &[Message<'_>],
    mut text: impl FnMut(usize, Part, &str) -> String,
) -> Result<Vec<Value>, Reason> {
    let mut list = Vec::with_capacity(messages.len());
    for (i, message) in messages.iter().enumerate() {
        let mut given = vec![("role", Value::from(message.role.name()))];
        if let Some(reasoning) = &message.reasoning {
            given.push(("reasoning_content", Value::from(text(i, Part::Thought, reasoning))));
        }
        given.insert(1, ("content", Value::from(text(i, Part::Said, &message.content))));
        if !message.tool_calls.is_empty() {
            let mut calls = Vec::with_capacity(message.tool_calls.len());
            for call in &message.tool_calls {
                let mut function = serde_json::from_str(call).map_err(|_| Reason::ToolCallNotJson)?;
                each_text(&mut function, &mut |value| text(i, Part::Called, value));
                calls.push(Value::from(Serde(serde_json::json!({ "type": "function", "function": function }))));
            }
            given.push(("tool_calls", Value::from(calls)));
        }
        list.push(Value::from_pairs(given));
    }
    Ok(list)
}

/// Replaces every text in a JSON value; keys stay.
fn each_text(value: &mut serde_json::Value, text: &mut dyn FnMut(&str) -> String) {
    match value {
        serde_json::Value::String(content) => *content = text(content),
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| each_text(item, text)),
        serde_json::Value::Object(map) => map.values_mut().for_each(|item| each_text(item, text)),
        _ => {}
    }
}

/// The tools on offer; none is the value none.
pub(super) fn tools(conversation: &Conversation<'_>) -> Result<Value, Reason> {
    let Some(text) = conversation.tools.as_deref() else { return Ok(Value::from(())) };
    match serde_json::from_str(text) {
        Ok(list @ serde_json::Value::Array(_)) => Ok(Value::from(Serde(list))),
        Ok(one @ serde_json::Value::Object(_)) => Ok(Value::from(Serde([one]))),
        _ => Err(Reason::ToolsAreNoJson),
    }
}
