//! How text is encoded under a template.

use super::added::AddedToken;
use super::engine::{Base, Engine};
use aho_corasick::AhoCorasick;
use std::sync::Arc;

/// An engine for text in which some added tokens are tokens, and the others, control tokens, are text.
pub struct Content {
    engine: Arc<dyn Engine>,
    /// Those that are special stay text.
    pub(super) added: Vec<AddedToken>,
    controls: Option<AhoCorasick>,
    words: Option<AhoCorasick>,
}

impl Content {
    pub(super) fn new(added: Vec<AddedToken>, base: &Arc<dyn Base>) -> Result<Self, String> {
        let engine: Arc<dyn Engine> =
            if added.iter().all(|token| token.special) { base.clone() } else { base.clone().with_added(&added)? };
        let finder = |special| {
            let tokens: Vec<_> = added.iter().filter(|t| t.special == special && !is_blank(t)).collect();
            AhoCorasick::new(tokens.iter().map(|t| &t.content)).ok().filter(|_| !tokens.is_empty())
        };
        Ok(Self { engine, controls: finder(true), words: finder(false), added })
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// Whether a text contains the text of a control token.
    #[must_use]
    pub fn has_control(&self, text: &str) -> bool {
        self.controls.as_ref().is_some_and(|tokens| tokens.is_match(text))
    }

    /// Whether a text contains an added token that is no control token and not white space.
    #[must_use]
    pub fn has_word(&self, text: &str) -> bool {
        self.words.as_ref().is_some_and(|tokens| tokens.is_match(text))
    }
}

fn is_blank(token: &AddedToken) -> bool {
    token.content.trim().is_empty()
}
