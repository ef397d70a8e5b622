//! Which template, however it was named: built in, written by the user, or the model's own.

use super::builtin;
use super::chat_template::ChatTemplate;
use super::controls::Controls;
use super::jinja::Jinja;
use super::render::{Learn, Rendered};
use super::spec::Spec;
use crate::conversation::Conversation;
use crate::error::{Error, Result};
use crate::reasons::Reason;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How a template is named in options: always as one string, so that it can be used wherever a name can.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub enum Source {
    /// A built-in one.
    Name(String),
    /// A JSON object: `{"jinja": "…", "stops": […]}`, the model's own and the tokens at which serving stops; or a
    /// written one, key by key (see [`Spec`]).
    Written(serde_json::Map<String, serde_json::Value>),
}

impl TryFrom<String> for Source {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        if !text.starts_with('{') {
            return Ok(Self::Name(text));
        }
        serde_json::from_str(&text).map(Self::Written).map_err(|e| format!("the template is not JSON: {e}"))
    }
}

impl Source {
    /// A built-in template.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self::Name(name.to_owned())
    }

    /// A model's own template.
    #[must_use]
    pub fn jinja(text: &str) -> Self {
        Self::Written([("jinja".to_owned(), text.into())].into_iter().collect())
    }
}

/// A template that is bound to a tokenizer's bos and eos tokens.
#[derive(Debug)]
pub enum Template {
    /// Data.
    Frames(Box<ChatTemplate>),
    /// The model's own.
    Jinja(Box<Jinja>),
}

impl Template {
    /// Finds or reads it.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`]: an unknown name, or what is wrong with a written one.
    pub fn new(source: &Source, bos: Option<&str>, eos: Option<&str>) -> Result<Self> {
        let fault = |problem: String, hint: String| Error::Tokenizer { path: None, problem, hint };
        match source {
            Source::Name(name) => match builtin::find(name) {
                Some(template) => Ok(Self::Frames(Box::new(template.bound(bos, eos)))),
                None => Err(fault(
                    format!("unknown template `{name}`"),
                    format!("built in: {}", builtin::names().join(", ")),
                )),
            },
            Source::Written(keys) => {
                if let Some(text) = keys.get("jinja") {
                    let stops = keys.get("stops").and_then(serde_json::Value::as_array).into_iter().flatten();
                    let stops: Vec<_> = stops.filter_map(|stop| stop.as_str().map(str::to_owned)).collect();
                    let jinja = Jinja::new(text.as_str().unwrap_or_default(), bos, eos, &stops);
                    return jinja.map(|jinja| Self::Jinja(Box::new(jinja))).map_err(|why| {
                        fault(
                            format!("the model's own chat template cannot be used: {why}"),
                            format!("name another: template=NAME, one of {}", builtin::names().join(", ")),
                        )
                    });
                }
                let spec: std::result::Result<Spec, _> = serde_json::from_value(keys.clone().into());
                let hint = "docs/templates.md explains the keys; `qlora-fast template show NAME` prints an example";
                let spec = spec.map_err(|e| fault(format!("not a template: {e}"), hint.to_owned()))?;
                let template = spec.compile().map_err(|problems| {
                    let listed: Vec<_> = problems.iter().map(|(key, problem)| format!("`{key}` {problem}")).collect();
                    fault(format!("template `{}`: {}", spec.name, listed.join("; ")), hint.to_owned())
                })?;
                Ok(Self::Frames(Box::new(template.bound(bos, eos))))
            }
        }
    }

    /// The words that it may know keys of a turn by: names and texts in its expressions.
    #[must_use]
    pub fn words(&self) -> Arc<BTreeSet<Box<str>>> {
        match self {
            // They print contents, thoughts and calls, and nothing else of a turn.
            Self::Frames(_) => Arc::default(),
            Self::Jinja(jinja) => jinja.words(),
        }
    }

    /// Its name in configs and manifests.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Frames(template) => &template.name,
            Self::Jinja(_) => "jinja",
        }
    }

    /// All of it, for fingerprints.
    ///
    /// # Errors
    ///
    /// Never: every built-in template compiles (tested).
    pub fn identity(&self) -> serde_json::Result<String> {
        match self {
            Self::Frames(template) => serde_json::to_string(template),
            Self::Jinja(jinja) => serde_json::to_string(&jinja.written()),
        }
    }

    /// The first control token that a tokenizer lacks; `Some(None)` is the end of the sequence.
    pub(crate) fn lacks(&self, known: impl Fn(Option<&str>) -> bool) -> Option<Option<&str>> {
        match self {
            Self::Frames(template) => template.required().find(|token| !known(*token)),
            // A model's own template and its tokenizer belong together.
            Self::Jinja(_) => None,
        }
    }

    /// Renders a repaired conversation, the whole of it; `system` is the system prompt of rows that have none. Answers
    /// that need a sample of their own are not learned in it.
    ///
    /// # Errors
    ///
    /// The reason to drop the row; only a model's own template has any.
    pub fn render<'a>(
        &'a self,
        conversation: &'a Conversation<'_>,
        system: Option<&'a str>,
        learn: Learn,
        controls: &Controls,
    ) -> std::result::Result<Rendered<'a>, Reason> {
        let mut samples = self.samples(conversation, system, learn, controls)?;
        samples.pop().ok_or(Reason::NoAnswer)
    }

    /// The samples of a repaired conversation: one, or several where a model's own template prints an answer otherwise
    /// once others follow. The last is the whole.
    ///
    /// # Errors
    ///
    /// The reason to drop the row; only a model's own template has any.
    pub fn samples<'a>(
        &'a self,
        conversation: &'a Conversation<'_>,
        system: Option<&'a str>,
        learn: Learn,
        controls: &Controls,
    ) -> std::result::Result<Vec<Rendered<'a>>, Reason> {
        match self {
            Self::Frames(template) => Ok(vec![template.render(conversation, system, learn)]),
            Self::Jinja(jinja) => jinja.samples(conversation, system, learn, controls),
        }
    }

    /// Renders a conversation that the model is to answer.
    ///
    /// # Errors
    ///
    /// Why it cannot be rendered.
    pub fn prompt<'a>(
        &'a self,
        conversation: &'a Conversation<'_>,
        system: Option<&'a str>,
        enable_thinking: bool,
        controls: &Controls,
    ) -> std::result::Result<Rendered<'a>, Reason> {
        match self {
            Self::Frames(template) => {
                let mut rendered = template.render(conversation, system, Learn::default());
                rendered.turns.push(template.generation_prompt(enable_thinking));
                Ok(rendered)
            }
            Self::Jinja(jinja) => jinja.prompt(conversation, system, enable_thinking, controls),
        }
    }

    /// The tokens that end an answer; an empty name is the end-of-sequence token.
    #[must_use]
    pub fn stops(&self, controls: &Controls) -> Vec<String> {
        match self {
            Self::Frames(template) => template.stops().map(|stop| stop.unwrap_or("").to_owned()).collect(),
            Self::Jinja(jinja) => jinja.ends(controls),
        }
    }
}
