//! The reference: the crate `tokenizers`.

use super::engine::Engine;
use serde_json::Value;
use std::path::Path;

pub(super) struct Reference(tokenizers::Tokenizer);

impl Reference {
    /// Loads the file without its added tokens, and without what else would put tokens into text.
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
        let mut json: Value = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        if let Some(root) = json.as_object_mut() {
            root.insert("added_tokens".to_owned(), Value::Array(Vec::new()));
            for step in ["post_processor", "truncation", "padding"] {
                root.insert(step.to_owned(), Value::Null);
            }
        }
        let bytes = serde_json::to_vec(&json).map_err(|e| e.to_string())?;
        tokenizers::Tokenizer::from_bytes(bytes).map(Self).map_err(|e| e.to_string())
    }
}

impl Engine for Reference {
    fn name(&self) -> &'static str {
        "tokenizers"
    }

    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        let encoding = self.0.encode_fast(text, false).map_err(|e| e.to_string())?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}
