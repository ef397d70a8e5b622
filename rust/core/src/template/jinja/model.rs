//! The template of a model, and one rendering by it.

use crate::jinja::{Fault, Program, Text, Variable};
use crate::reasons::Reason;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

/// A model's own chat template.
#[derive(Debug)]
pub struct Jinja {
    pub(in crate::template) source: String,
    program: Program,
    bos: Option<String>,
    pub(super) eos: Option<String>,
    /// Tokens at which serving ends an answer, beside the end-of-sequence token.
    pub(super) stops: Vec<String>,
    /// See [`Self::own_text`].
    pub(super) own: OnceLock<String>,
}

/// What a template is given beside the messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(in crate::template) struct Asked {
    /// The model is to answer next.
    pub(in crate::template) prompt: bool,
    /// `enable_thinking`, which some call `thinking`, where it is set at all.
    pub(in crate::template) thinking: Option<bool>,
}

/// The reason to drop a row.
pub(super) fn reason(fault: Fault) -> Reason {
    match fault {
        Fault::Raised(message) => Reason::RefusedByTheTemplate(message.into()),
        fault => Reason::TemplateError(fault.to_string().into()),
    }
}

impl Jinja {
    /// # Errors
    ///
    /// The fault in the template's text.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>, stops: &[String]) -> Result<Self, Fault> {
        Ok(Self {
            source: source.to_owned(),
            program: Program::new(source)?,
            bos: bos.map(str::to_owned),
            eos: eos.map(str::to_owned),
            stops: stops.to_vec(),
            own: OnceLock::new(),
        })
    }

    /// The names and texts in its expressions.
    pub(in crate::template) fn words(&self) -> Arc<BTreeSet<Box<str>>> {
        Arc::clone(&self.program.words)
    }

    /// All of it, as it is written in options.
    #[must_use]
    pub fn written(&self) -> serde_json::Value {
        if self.stops.is_empty() {
            serde_json::json!({ "jinja": self.source })
        } else {
            serde_json::json!({ "jinja": self.source, "stops": self.stops })
        }
    }

    pub(super) fn print(&self, messages: Variable, tools: Variable, size: usize, asked: Asked) -> Result<Text, Fault> {
        let mut given = vec![
            ("messages", messages),
            ("tools", tools),
            ("documents", Variable::None),
            ("add_generation_prompt", Variable::Bool(asked.prompt)),
        ];
        // What is not there is undefined, not none: `{{ bos_token }}` then prints nothing.
        for (name, token) in [("bos_token", &self.bos), ("eos_token", &self.eos)] {
            given.extend(token.as_ref().map(|token| (name, Variable::word(token))));
        }
        if let Some(thinking) = asked.thinking {
            given.extend(["enable_thinking", "thinking"].map(|name| (name, Variable::Bool(thinking))));
        }
        self.program.render(&given, size)
    }

    /// Whether an answer ends at this control token: serving stops there, or it is no closing tag within an answer.
    pub(super) fn closes(&self, token: &str) -> bool {
        self.eos.as_deref() == Some(token) || self.stops.iter().any(|s| s == token) || !token.starts_with("</")
    }

    /// Whether this is the token that begins a text.
    pub(in crate::template) fn begins_with(&self, token: &str) -> bool {
        self.bos.as_deref() == Some(token)
    }

    /// Whether serving is known to stop at this token.
    pub(in crate::template) fn stops_at(&self, token: &str) -> bool {
        self.eos.as_deref() == Some(token) || self.stops.iter().any(|s| s == token)
    }
}
