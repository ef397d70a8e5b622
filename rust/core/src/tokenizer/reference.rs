//! The reference: the crate `tokenizers`.

use super::added::{AddedToken, assign};
use super::engine::{Base, Engine};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

pub(super) struct Reference {
    tokenizer: tokenizers::Tokenizer,
    /// The added tokens of the file.
    pub(super) added: Vec<AddedToken>,
    /// Only a text with nothing before it gets a leading blank.
    pub(super) blank_is_first_only: bool,
    unknown: Option<u32>,
    largest: u32,
}

impl Reference {
    /// Loads the file without its added tokens, and without what else would put tokens into text.
    pub(super) fn load(json: &[u8]) -> Result<Self, String> {
        let mut json: Value = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let mut added = Vec::new();
        if let Some(root) = json.as_object_mut() {
            let tokens = root.insert("added_tokens".to_owned(), Value::Array(Vec::new()));
            added = Vec::deserialize(tokens.unwrap_or(Value::Array(Vec::new()))).map_err(|e| e.to_string())?;
            for step in ["post_processor", "truncation", "padding"] {
                root.insert(step.to_owned(), Value::Null);
            }
        }
        let bytes = serde_json::to_vec(&json).map_err(|e| e.to_string())?;
        let tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| e.to_string())?;
        assign(&mut added, tokenizer.get_vocab_size(false), |token| tokenizer.token_to_id(token));
        let unknown = unknown(&json["model"], |token| tokenizer.token_to_id(token));
        let largest = tokenizer.get_vocab(false).into_values().max().unwrap_or_default();
        let blank_is_first_only = blank_is_first_only(&json["pre_tokenizer"]);
        Ok(Self { tokenizer, added, blank_is_first_only, unknown, largest })
    }
}

/// A Unigram model says the id of its token for what is unknown, the others its name.
fn unknown(model: &Value, id_of: impl Fn(&str) -> Option<u32>) -> Option<u32> {
    let by_id = model["unk_id"].as_u64().and_then(|id| u32::try_from(id).ok());
    by_id.or_else(|| id_of(model["unk_token"].as_str()?))
}

fn blank_is_first_only(step: &Value) -> bool {
    let steps = step["pretokenizers"].as_array().into_iter().flatten();
    std::iter::once(step).chain(steps).any(|step| step["type"] == "Metaspace" && step["prepend_scheme"] == "first")
}

impl Engine for Reference {
    fn name(&self) -> &'static str {
        "tokenizers"
    }

    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|e| e.to_string())?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}

impl Base for Reference {
    fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    fn largest(&self) -> u32 {
        self.largest
    }

    fn with_added(self: Arc<Self>, added: &[AddedToken]) -> Result<Arc<dyn Engine>, String> {
        let mut tokenizer = self.tokenizer.clone();
        let tokens = added.iter().map(|token| {
            tokenizers::AddedToken::from(token.content.as_str(), token.special)
                .single_word(token.single_word)
                .lstrip(token.lstrip)
                .rstrip(token.rstrip)
                .normalized(token.normalized)
        });
        tokenizer.add_tokens(tokens).map_err(|e| e.to_string())?;
        tokenizer.set_encode_special_tokens(true);
        Ok(Arc::new(Self { tokenizer, added: Vec::new(), ..*self }))
    }
}
