//! The model's own chat template, as Jinja: for models that no built-in template renders alike.
//!
//! Jinja gives one text. Which of it came from the data, and which of it is an answer, is found by rendering again: with
//! unguessable words in place of the contents (`mask`), and up to each turn (`locate`). Both are proved on every row: the
//! masked rendering, its words put back, must be the direct one; a turn must begin where the rendering of what stands
//! before it ends. A row for which that fails is dropped by name.

mod environment;
mod locate;
mod mask;

pub use environment::FIXED_DATE;

use super::render::{Learn, Rendered};
use super::source::Controls;
use crate::conversation::{Conversation, Message, Role};
use mask::{Masked, TAGS};
use minijinja::Environment;
use minijinja::value::{Serde, Value};
use std::collections::BTreeMap;

/// A model's own chat template.
#[derive(Debug)]
pub struct Jinja {
    source: String,
    environment: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
}

/// Why nothing was printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The template said so, with `raise_exception`.
    Raised(String),
    /// It failed.
    Failed(String),
}

impl Refusal {
    /// The reason to drop a row.
    fn reason(self) -> String {
        match self {
            Self::Raised(message) => format!("refused_by_the_template:{message}"),
            Self::Failed(message) => format!("template_error:{message}"),
        }
    }
}

/// What a template is given beside the messages.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    /// The model is to answer next.
    pub(super) prompt: bool,
    /// `enable_thinking`, where it is set at all.
    pub(super) thinking: Option<bool>,
}

impl Jinja {
    /// # Errors
    ///
    /// The fault in the template's text.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, String> {
        let environment = environment::environment(source).map_err(|e| e.to_string())?;
        Ok(Self { source: source.to_owned(), environment, bos: bos.map(str::to_owned), eos: eos.map(str::to_owned) })
    }

    /// Its text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The direct rendering of a conversation.
    pub(super) fn direct(&self, conversation: &Conversation<'_>, asked: Asked) -> Result<String, Refusal> {
        let tools = tools(conversation).map_err(Refusal::Failed)?;
        self.print(
            &values(&conversation.messages, |_, _, text| text.to_owned()).map_err(Refusal::Failed)?,
            &tools,
            asked,
        )
    }

    fn print(&self, messages: &[Value], tools: &Value, asked: Asked) -> Result<String, Refusal> {
        let mut given: BTreeMap<&str, Value> = BTreeMap::new();
        given.insert("messages", Value::from(messages.to_vec()));
        given.insert("tools", tools.clone());
        given.insert("documents", Value::from(()));
        given.insert("add_generation_prompt", Value::from(asked.prompt));
        // What is not there is undefined, not none: `{{ bos_token }}` then prints nothing.
        for (name, token) in [("bos_token", &self.bos), ("eos_token", &self.eos)] {
            if let Some(token) = token {
                given.insert(name, Value::from(token.as_str()));
            }
        }
        if let Some(thinking) = asked.thinking {
            given.insert("enable_thinking", Value::from(thinking));
        }
        let template = self.environment.get_template("chat").map_err(|e| Refusal::Failed(e.to_string()))?;
        template.render(given).map_err(|error| match environment::raised(&error) {
            Some(message) => Refusal::Raised(message.to_owned()),
            None => Refusal::Failed(error.to_string()),
        })
    }

    /// Renders a repaired conversation; `system` stands for a system prompt that the row does not have.
    ///
    /// # Errors
    ///
    /// The reason to drop the row.
    pub(super) fn render(
        &self,
        conversation: &Conversation<'_>,
        system: Option<&str>,
        learn: Learn,
        controls: &Controls,
    ) -> Result<Rendered<'static>, String> {
        let whole = with_system(conversation, system);
        self.proved(&whole, Asked::default(), controls, &|masked, text| {
            locate::Locator { jinja: self, masked, controls }.turns(text, &whole, learn)
        })
    }

    /// Renders a conversation that the model is to answer: one turn, nothing learned.
    ///
    /// # Errors
    ///
    /// Why it cannot be rendered.
    pub(super) fn prompt(
        &self,
        conversation: &Conversation<'_>,
        system: Option<&str>,
        enable_thinking: bool,
        controls: &Controls,
    ) -> Result<Rendered<'static>, String> {
        let asked = Asked { prompt: true, thinking: Some(enable_thinking) };
        let whole = with_system(conversation, system);
        self.proved(&whole, asked, controls, &|masked, text| {
            let segments = masked.segments(text, 0..text.len(), controls);
            Ok(Rendered { turns: vec![super::Turn { role: Role::User, segments }], notices: Vec::new() })
        })
    }

    /// Calls `work` with a masked rendering that is proved to be the direct one.
    fn proved(
        &self,
        conversation: &Conversation<'_>,
        asked: Asked,
        controls: &Controls,
        work: &dyn Fn(&Masked, &str) -> Result<Rendered<'static>, String>,
    ) -> Result<Rendered<'static>, String> {
        let direct = self.direct(conversation, asked).map_err(Refusal::reason)?;
        if conversation.tools.as_deref().is_some_and(|tools| controls.any(tools)) {
            return Err("control_token_in_tool_json".to_owned());
        }
        let mut failed = None;
        // Templates that part an answer at its tags print another text for words that have none; those that print the
        // arguments of a call one by one print them as they are, and not as JSON.
        for (tags, escape) in [(&[][..], true), (&TAGS[..], true), (&[][..], false), (&TAGS[..], false)] {
            let masked = Masked::new(conversation, &self.source, tags, escape)?;
            let Ok(text) = self.print(&masked.messages, &masked.tools, asked) else { continue };
            if masked.unmasked(&text) == direct {
                match work(&masked, &text) {
                    Ok(rendered) => return Ok(rendered),
                    Err(reason) => failed = Some(reason),
                }
            }
        }
        if let Some(reason) = failed {
            return Err(reason);
        }
        let contents = conversation.messages.iter().flat_map(|m| [Some(&m.content), m.reasoning.as_ref()]).flatten();
        let calls = conversation.messages.iter().flat_map(|m| &m.tool_calls).map(String::as_str);
        if contents.map(AsRef::as_ref).chain(calls).any(|text| controls.any(text)) {
            return Err("control_token_in_text_that_the_template_rewrites".to_owned());
        }
        // Nothing of the data looks like a control token, so the direct rendering can be cut up as it stands.
        work(&Masked::nothing(conversation)?, &direct)
    }
}

/// The conversation with a system prompt, if it has none and there is one to give.
fn with_system<'a>(conversation: &Conversation<'a>, system: Option<&str>) -> Conversation<'a> {
    let mut whole = conversation.clone();
    if let Some(system) = system.filter(|s| !s.is_empty())
        && whole.messages.first().is_none_or(|m| m.role != Role::System)
    {
        whole.messages.insert(0, Message::new(Role::System, system.to_owned()));
    }
    whole
}

/// A part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Said,
    Thought,
    /// A text in a tool call: its name, a value among its arguments.
    Called,
}

/// Messages as templates take them; `text(message, part, content)` may put other words in place of a content.
fn values(messages: &[Message<'_>], mut text: impl FnMut(usize, Part, &str) -> String) -> Result<Vec<Value>, String> {
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
                let mut function = serde_json::from_str(call).map_err(|_| "tool_call_not_json".to_owned())?;
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

fn tools(conversation: &Conversation<'_>) -> Result<Value, String> {
    let Some(text) = conversation.tools.as_deref() else { return Ok(Value::from(())) };
    match serde_json::from_str(text) {
        Ok(list @ serde_json::Value::Array(_)) => Ok(Value::from(Serde(list))),
        Ok(one @ serde_json::Value::Object(_)) => Ok(Value::from(Serde([one]))),
        _ => Err("tools_are_no_json".to_owned()),
    }
}
