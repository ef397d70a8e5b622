//! A conversation as templates take it, and which of its texts a byte of the output came from.

use crate::conversation::{Conversation, Message};
use crate::jinja::{Origin, TEMPLATE, Variable};
use crate::reasons::{Notice, Reason};
use crate::record::pyjson;
use crate::template::tools::{Offer, offered};
use serde_json::Value;
use std::sync::Arc;

/// The origin of the offer of tools.
const TOOLS: Origin = 1;
/// The first origin of a message; each has one for every part.
const FIRST: Origin = 2;

/// A part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Said,
    Thought,
    /// A text in a tool call: its name, the keys and texts of its arguments.
    Called,
    /// Keys that only the template knows, and the ids of calls.
    Other,
}

/// The parts, in the order of their origins.
const PARTS: [Part; 4] = [Part::Said, Part::Thought, Part::Called, Part::Other];

/// The origin of a part of message `i`.
pub(super) fn origin(i: usize, part: Part) -> Origin {
    FIRST + (PARTS.len() * i) as Origin + part as Origin
}

/// The message that bytes of this origin belong to; none for the template and the tools.
pub(super) fn message_of(origin: Origin) -> Option<usize> {
    origin.checked_sub(FIRST).map(|o| o as usize / PARTS.len())
}

/// How the arguments of tool calls are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arguments {
    /// As a mapping.
    AsMapping,
    /// As JSON text, as OpenAI's interface has them: some templates join them with other texts.
    AsText,
}

/// What a template is given of a conversation.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) messages: Vec<Variable>,
    pub(super) tools: Variable,
    /// What was done to the tools.
    pub(super) notices: Vec<Notice>,
    /// About how many bytes it has.
    pub(super) size: usize,
}

impl Talk {
    /// # Errors
    ///
    /// The reason to drop the row.
    pub(super) fn new(conversation: &Conversation<'_>, arguments: Arguments) -> Result<Self, Reason> {
        let each = conversation.messages.iter().enumerate();
        let messages = each.map(|(i, m)| message(i, m, arguments)).collect::<Result<_, _>>()?;
        let (tools, notices) = match conversation.tools.as_deref() {
            None => (Variable::None, Vec::new()),
            Some(text) => {
                let Offer { tools, notices } = offered(text).ok_or(Reason::ToolsAreNoJson)?;
                (Variable::List(tools.into_iter().map(|tool| Variable::Json(tool, TOOLS)).collect()), notices)
            }
        };
        let of_message = |m: &Message<'_>| {
            let calls: usize = m.tool_calls.iter().map(String::len).sum();
            let ids: usize = m.call_ids.iter().flatten().map(String::len).sum();
            let others: usize = m.others.values().map(|value| value.to_string().len()).sum();
            m.content.len() + m.reasoning.as_deref().map_or(0, str::len) + calls + ids + others
        };
        let size = conversation.messages.iter().map(of_message).sum::<usize>()
            + conversation.tools.as_deref().map_or(0, str::len);
        Ok(Self { messages, tools, notices, size })
    }
}

/// A message with the keys that transformers gives it: `thinking` beside `reasoning_content`, and those of the data that the
/// template reads.
fn message(i: usize, message: &Message<'_>, arguments: Arguments) -> Result<Variable, Reason> {
    let text = |part, text: &str| Variable::Text(text.into(), origin(i, part));
    let mut given: Vec<(Arc<str>, Variable)> = Vec::new();
    if let Some(reasoning) = &message.reasoning {
        given.push(("thinking".into(), text(Part::Thought, reasoning)));
    }
    given.push(("role".into(), Variable::Text(message.role.name().into(), TEMPLATE)));
    given.push(("content".into(), text(Part::Said, &message.content)));
    if let Some(reasoning) = &message.reasoning {
        given.push(("reasoning_content".into(), text(Part::Thought, reasoning)));
    }
    if !message.tool_calls.is_empty() {
        let mut calls = Vec::with_capacity(message.tool_calls.len());
        for (at, call) in message.tool_calls.iter().enumerate() {
            let mut function: Value = serde_json::from_str(call).map_err(|_| Reason::ToolCallNotJson)?;
            if arguments == Arguments::AsText
                && let Some(given) = function.get_mut("arguments").filter(|given| !given.is_string())
            {
                *given = Value::String(pyjson::dumps(given));
            }
            let function = Variable::Json(function, origin(i, Part::Called));
            let mut keys = vec![("type".into(), Variable::word("function")), ("function".into(), function)];
            if let Some(id) = message.call_ids.get(at).and_then(Option::as_deref) {
                keys.push(("id".into(), text(Part::Other, id)));
            }
            calls.push(Variable::Map(keys));
        }
        given.push(("tool_calls".into(), Variable::List(calls)));
    }
    for (key, value) in &message.others {
        given.push((key.as_str().into(), Variable::Json(value.clone(), origin(i, Part::Other))));
    }
    Ok(Variable::Map(given))
}
