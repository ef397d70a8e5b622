//! How text is encoded under a template.

use super::added::AddedToken;
use super::engine::{Base, Engine};
use super::first_bytes::FirstBytes;
use crate::guarded::guarded;
use aho_corasick::AhoCorasick;
use std::sync::Arc;

/// An engine for text in which some added tokens are tokens, and the others, control tokens, are text.
pub struct Content {
    engine: Arc<dyn Engine>,
    /// Those that are special stay text.
    pub(super) added: Vec<AddedToken>,
    controls: Option<AhoCorasick>,
    words: Option<AhoCorasick>,
    /// Of both.
    first_bytes: FirstBytes,
    /// Ids of control tokens, ascending: a model whose vocabulary holds the text of one makes it of that text.
    pub(super) forbidden: Vec<u32>,
}

impl Content {
    pub(super) fn new(added: Vec<AddedToken>, forbidden: Vec<u32>, base: &Arc<dyn Base>) -> Result<Self, String> {
        let engine: Arc<dyn Engine> =
            if added.iter().all(|token| token.special) { base.clone() } else { base.clone().with_added(&added)? };
        let finder = |special| {
            let tokens: Vec<_> = added.iter().filter(|t| t.special == special && !is_blank(t)).collect();
            AhoCorasick::new(tokens.iter().map(|t| &t.content)).ok().filter(|_| !tokens.is_empty())
        };
        let (controls, words) = (finder(true), finder(false));
        let first_bytes = FirstBytes::of(added.iter().filter(|t| !is_blank(t)).map(|t| t.content.as_str()));
        Ok(Self { engine, controls, words, first_bytes, forbidden, added })
    }

    /// The engine alone, without what [`Self::encode`] refuses.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// Appends the ids of `text`; no control token is ever among them, but for the one that stands for what is unknown where
    /// there is such a one. After an error `ids` is as it was.
    ///
    /// # Errors
    ///
    /// Why the text has no such ids: the engine refuses it or gives up on it, or the tokenizer's model (Unigram,
    /// `WordLevel`) makes a control token of its text.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        let before = ids.len();
        let encoded = run(self.engine.as_ref(), text, ids).and_then(|()| {
            let problem = || "the tokenizer's model makes a control token of its text".to_owned();
            if has_any(&ids[before..], &self.forbidden) { Err(problem()) } else { Ok(()) }
        });
        if encoded.is_err() {
            ids.truncate(before);
        }
        encoded
    }

    /// Whether [`Self::has_control`] or [`Self::has_word`] may hold; quick to say for a text for which neither does.
    #[must_use]
    pub fn may_have_added(&self, text: &str) -> bool {
        self.first_bytes.may_stand_in(text)
    }

    /// Whether a text contains the text of a control token.
    #[must_use]
    pub fn has_control(&self, text: &str) -> bool {
        self.controls.as_ref().is_some_and(|tokens| tokens.is_match(text))
    }

    /// Whether a text has the characters of an added token that is no control token and not white space.
    #[must_use]
    pub fn has_word(&self, text: &str) -> bool {
        self.words.as_ref().is_some_and(|tokens| tokens.is_match(text))
    }
}

fn is_blank(token: &AddedToken) -> bool {
    token.content.trim().is_empty()
}

/// The regular expressions' library panics when a match takes too many steps. It is called for a text before anything is
/// looked up or kept of it, so the engine goes on unharmed.
fn run(engine: &dyn Engine, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
    guarded(|| engine.encode(text, ids))
        .unwrap_or_else(|| Err("the tokenizer's split pattern gives up on this text".to_owned()))
}

/// What an engine must not make of text: all control tokens with an id of the vocabulary, whether or not the model could, which
/// depends on what stands around them. (Those of most models have ids behind it, and nothing is looked for.) White space is no control token; what stands for unknown characters is none where it does, nor is a single
/// character that no template writes: a tokenizer that pads with `!` still has ordinary exclamation marks.
pub(super) fn forbidden(added: &[AddedToken], is_control: impl Fn(&AddedToken) -> bool, base: &dyn Base) -> Vec<u32> {
    let is_word = |token: &AddedToken| token.content.chars().nth(1).is_some();
    let controls = added.iter().filter(|token| is_control(token) || (token.special && is_word(token)));
    let ids = controls.filter(|token| !is_blank(token)).map(|token| token.id);
    let mut ids: Vec<u32> = ids.filter(|&id| id <= base.largest() && Some(id) != base.unknown()).collect();
    ids.sort_unstable();
    ids
}

/// Whether some of the ids are among `sorted`. Control tokens mostly lie before or behind all others, which the processor
/// tells of several ids at once.
fn has_any(ids: &[u32], sorted: &[u32]) -> bool {
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return false };
    let near = ids.iter().fold(false, |near, id| near | (id.wrapping_sub(*first) <= last - first));
    near && ids.iter().any(|id| sorted.binary_search(id).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A model with the ids 0 – 9, of which 0 is the unknown one.
    struct Ten;

    impl Engine for Ten {
        fn name(&self) -> &'static str {
            "ten"
        }

        fn encode(&self, _: &str, _: &mut Vec<u32>) -> Result<(), String> {
            Ok(())
        }
    }

    impl Base for Ten {
        fn unknown(&self) -> Option<u32> {
            Some(0)
        }

        fn largest(&self) -> u32 {
            9
        }

        fn with_added(self: Arc<Self>, _: &[AddedToken]) -> Result<Arc<dyn Engine>, String> {
            Ok(self)
        }
    }

    #[test]
    fn only_what_the_model_can_make_is_looked_for() {
        let tokens = [(0, "<unk>"), (9, "<s>"), (3, "!"), (4, "\n\n"), (10, "<|im_end|>"), (11, "<|im_start|>")];
        let added = tokens.map(|(id, content)| {
            serde_json::from_value::<AddedToken>(json!({"id": id, "content": content, "special": true})).unwrap()
        });
        assert_eq!(forbidden(&added, |_| false, &Ten), [9]);
        assert_eq!(forbidden(&added, |token| token.content == "!", &Ten), [3, 9]);
        assert_eq!(
            forbidden(&added[4..], |_| false, &Ten),
            [0; 0],
            "those of most models have ids beyond the vocabulary"
        );
    }

    #[test]
    fn ids_are_found_among_others() {
        assert!(!has_any(&[1, 2], &[]) && !has_any(&[], &[1]));
        for (id, found) in [(0, false), (3, true), (4, false), (7, true), (8, false), (u32::MAX, false)] {
            assert_eq!(has_any(&[0, id, 100], &[3, 7]), found, "{id}");
        }
        assert!(has_any(&[u32::MAX], &[0, u32::MAX]));
    }
}
