//! Text → token ids, by one of two engines with equal ids.
//!
//! Both load the tokenizer *without its added tokens*: text can then never become a control token, whatever it says.
//! Control tokens are looked up by name, by the template.

mod fast;
mod reference;

use crate::error::{Error, Result};
use aho_corasick::AhoCorasick;
use serde::{Deserialize, Serialize};
use serde_json::Value;
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
        let mut json: Value = serde_json::from_slice(&bytes).map_err(|e| fault(e.to_string()))?;
        let added = take_added_tokens(&mut json).ok_or_else(|| fault("it has no list of added tokens".to_owned()))?;
        let (engine, reason): (Box<dyn Engine>, _) = match choice {
            Choice::Tokenizers => (Box::new(reference::Reference::load(&json).map_err(fault)?), None),
            Choice::Fastokens => (Box::new(fast::Fast::load(json).map_err(fault)?), None),
            Choice::Auto => match fast::Fast::load(json.clone()) {
                Ok(engine) => (Box::new(engine), None),
                Err(why) => (
                    Box::new(reference::Reference::load(&json).map_err(fault)?),
                    Some(format!("fastokens does not know this tokenizer: {why}")),
                ),
            },
        };
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

/// Removes the added tokens, and what else would put tokens into text, from a `tokenizer.json`.
fn take_added_tokens(json: &mut Value) -> Option<HashMap<String, u32>> {
    let root = json.as_object_mut()?;
    let list = root.insert("added_tokens".to_owned(), Value::Array(Vec::new()))?;
    for step in ["post_processor", "truncation", "padding"] {
        root.insert(step.to_owned(), Value::Null);
    }
    list.as_array()?
        .iter()
        .map(|token| {
            let id = u32::try_from(token.get("id")?.as_u64()?).ok()?;
            Some((token.get("content")?.as_str()?.to_owned(), id))
        })
        .collect()
}
