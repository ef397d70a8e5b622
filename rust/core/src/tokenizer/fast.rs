//! The fast engine: the crate `fastokens`.

use super::Engine;
use serde_json::Value;

pub(super) struct Fast(fastokens::Tokenizer);

impl Fast {
    pub(super) fn load(json: Value) -> Result<Self, String> {
        fastokens::Tokenizer::from_json(json).map(Self).map_err(|e| e.to_string())
    }
}

impl Engine for Fast {
    fn name(&self) -> &'static str {
        "fastokens"
    }

    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        ids.extend(self.0.encode_ordinary(text).map_err(|e| e.to_string())?);
        Ok(())
    }
}
