//! The template's program: conversations in, the text that it prints out.

use super::environment::{environment, raised};
use super::values::{tools, values};
use crate::conversation::Conversation;
use crate::reasons::Reason;
use minijinja::{Environment, Value};
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
pub(in super::super) enum Refusal {
    /// The template said so, with `raise_exception`.
    Raised(String),
    /// It failed.
    Failed(String),
}

impl Refusal {
    /// The reason to drop a row.
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Raised(message) => Reason::RefusedByTheTemplate(message.into()),
            Self::Failed(message) => Reason::TemplateError(message.into()),
        }
    }
}

/// What a template is given beside the messages.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Asked {
    /// The model is to answer next.
    pub(in super::super) prompt: bool,
    /// `enable_thinking`, where it is set at all.
    pub(in super::super) thinking: Option<bool>,
}

impl Jinja {
    /// # Errors
    ///
    /// The fault in the template's text.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, String> {
        let environment = environment(source).map_err(|e| e.to_string())?;
        Ok(Self { source: source.to_owned(), environment, bos: bos.map(str::to_owned), eos: eos.map(str::to_owned) })
    }

    /// Its text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The direct rendering of a conversation.
    pub(in super::super) fn direct(&self, conversation: &Conversation<'_>, asked: Asked) -> Result<String, Refusal> {
        let failed = |reason: Reason| Refusal::Failed(reason.to_string());
        let tools = tools(conversation).map_err(failed)?;
        let messages = values(&conversation.messages, |_, _, text| text.to_owned()).map_err(failed)?;
        self.print(&messages, &tools, asked)
    }

    /// What the template prints, given messages and tools as values.
    pub(super) fn print(&self, messages: &[Value], tools: &Value, asked: Asked) -> Result<String, Refusal> {
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
        template.render(given).map_err(|error| match raised(&error) {
            Some(message) => Refusal::Raised(message.to_owned()),
            None => Refusal::Failed(error.to_string()),
        })
    }
}
