//! The reference: the crate `tokenizers`.

use super::Engine;
use serde_json::Value;

pub(super) struct Reference(tokenizers::Tokenizer);

impl Reference {
    pub(super) fn load(json: &Value) -> Result<Self, String> {
        let bytes = serde_json::to_vec(json).map_err(|e| e.to_string())?;
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
