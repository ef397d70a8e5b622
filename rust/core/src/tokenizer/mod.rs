//! Text → token ids, by one of two engines with equal ids.
//!
//! Both encode as if the tokenizer had no added tokens: text can then never become a control token, whatever it says.
//! Control tokens are looked up by name, by the template.

mod fast;
mod reference;

use crate::error::{Error, Result};
use aho_corasick::AhoCorasick;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// Turns text into ids.
pub trait Engine: Send + Sync {
    /// The library's name, for reports.
    fn name(&self) -> &'static str;

    /// Appends the ids of `text`; no control token is ever among them.
    ///
    /// # Errors
    ///
    /// A message, should the library refuse the text.
    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> std::result::Result<(), String>;
}

/// Which engine to take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// The fast one where it knows the tokenizer, the reference elsewhere.
    #[default]
    Auto,
    /// The crate `fastokens`, or an error.
    Fastokens,
    /// The crate `tokenizers`: the reference.
    Tokenizers,
}

/// An engine and the control tokens beside it.
pub struct Tokenizer {
    engine: Box<dyn Engine>,
    /// Why it is not the fast one.
    reason: Option<String>,
    added: HashMap<String, u32>,
    lookalikes: Option<AhoCorasick>,
}

impl Tokenizer {
    /// Loads a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Tokenizer`].
    pub fn load(path: &Path, choice: Choice) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let fault = |problem: String| Error::Tokenizer {
            problem: format!("`{}` is not a tokenizer that can be used: {problem}", path.display()),
            hint: "it must be the tokenizer.json that transformers' `save_pretrained` writes".to_owned(),
        };
        let file: Shape = serde_json::from_slice(&bytes).map_err(|e| fault(e.to_string()))?;
        drop(bytes);
        let blanks = file.added_tokens.iter().find(|t| !t.special && t.content.trim().is_empty());
        if let Some(blank) = blanks {
            // Such tokens are part of how ordinary text is cut; without them the ids would be other ones.
            return Err(fault(format!(
                "its added token {:?} is white space, which is not supported yet",
                blank.content
            )));
        }
        let reference =
            || -> Result<Box<dyn Engine>> { Ok(Box::new(reference::Reference::load(path).map_err(fault)?)) };
        let (engine, reason): (Box<dyn Engine>, _) = match choice {
            Choice::Tokenizers => (reference()?, None),
            Choice::Fastokens => (Box::new(fast::Fast::load(path).map_err(fault)?), None),
            Choice::Auto => match fast::Fast::load(path) {
                Ok(engine) => (Box::new(engine), None),
                Err(why) => (reference()?, Some(format!("fastokens does not know this tokenizer: {why}"))),
            },
        };
        let added: HashMap<String, u32> = file.added_tokens.into_iter().map(|t| (t.content, t.id)).collect();
        let lookalikes = AhoCorasick::new(added.keys()).ok().filter(|_| !added.is_empty());
        Ok(Self { engine, reason, added, lookalikes })
    }

    /// The engine that runs.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// Why the fast engine does not run, if it was not asked for otherwise.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The id of a control token.
    #[must_use]
    pub fn control(&self, token: &str) -> Option<u32> {
        self.added.get(token).copied()
    }

    /// Whether text contains what would be a control token elsewhere.
    #[must_use]
    pub fn has_lookalike(&self, text: &str) -> bool {
        self.lookalikes.as_ref().is_some_and(|l| l.is_match(text))
    }
}

/// What is read of a `tokenizer.json` beside the engine.
#[derive(Deserialize)]
struct Shape {
    added_tokens: Vec<AddedToken>,
    #[serde(rename = "model")]
    _model: IgnoredAny,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}
