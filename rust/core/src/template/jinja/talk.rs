//! A conversation as templates take it, and which of its texts a byte of the output came from.

use crate::conversation::{Conversation, Message};
use crate::jinja::{Origin, TEMPLATE, Variable};
use crate::reasons::Reason;
use crate::record::pyjson;
use crate::template::tools::offered;
use serde_json::Value;

/// The origin of the offer of tools.
const TOOLS: Origin = 1;
/// The first origin of a message; each has three.
const FIRST: Origin = 2;

/// A part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Said,
    Thought,
    /// A text in a tool call: its name, the keys and texts of its arguments.
    Called,
}

/// The parts, in the order of their origins.
pub(super) const PARTS: [Part; 3] = [Part::Said, Part::Thought, Part::Called];

/// The origin of a part of message `i`.
pub(super) fn origin(i: usize, part: Part) -> Origin {
    FIRST + 3 * i as Origin + part as Origin
}

/// The message that bytes of this origin belong to; none for the template and the tools.
pub(super) fn message_of(origin: Origin) -> Option<usize> {
    origin.checked_sub(FIRST).map(|o| o as usize / 3)
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
    pub(super) wrapped_tools: bool,
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
        let (tools, wrapped_tools) = match conversation.tools.as_deref() {
            None => (Variable::None, false),
            Some(text) => {
                let (tools, wrapped) = offered(text).ok_or(Reason::ToolsAreNoJson)?;
                (Variable::List(tools.into_iter().map(|tool| Variable::Json(tool, TOOLS)).collect()), wrapped)
            }
        };
        let of_message = |m: &Message<'_>| {
            let calls: usize = m.tool_calls.iter().map(String::len).sum();
            m.content.len() + m.reasoning.as_deref().map_or(0, str::len) + calls
        };
        let size = conversation.messages.iter().map(of_message).sum::<usize>()
            + conversation.tools.as_deref().map_or(0, str::len);
        Ok(Self { messages, tools, wrapped_tools, size })
    }
}

/// A message with the keys that transformers gives it: `thinking` beside `reasoning_content`.
fn message(i: usize, message: &Message<'_>, arguments: Arguments) -> Result<Variable, Reason> {
    let text = |part, text: &str| Variable::Text(text.into(), origin(i, part));
    let mut given = Vec::new();
    if let Some(reasoning) = &message.reasoning {
        given.push(("thinking", text(Part::Thought, reasoning)));
    }
    given.push(("role", Variable::Text(message.role.name().into(), TEMPLATE)));
    given.push(("content", text(Part::Said, &message.content)));
    if let Some(reasoning) = &message.reasoning {
        given.push(("reasoning_content", text(Part::Thought, reasoning)));
    }
    if !message.tool_calls.is_empty() {
        let mut calls = Vec::with_capacity(message.tool_calls.len());
        for call in &message.tool_calls {
            let mut function: Value = serde_json::from_str(call).map_err(|_| Reason::ToolCallNotJson)?;
            if arguments == Arguments::AsText
                && let Some(given) = function.get_mut("arguments").filter(|given| !given.is_string())
            {
                *given = Value::String(pyjson::dumps(given));
            }
            let function = Variable::Json(function, origin(i, Part::Called));
            calls.push(Variable::Map(vec![("type", Variable::word("function")), ("function", function)]));
        }
        given.push(("tool_calls", Variable::List(calls)));
    }
    Ok(Variable::Map(given))
}
