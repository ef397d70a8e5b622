//! The normalizer of a `tokenizer.json`.

use serde_json::Value;

/// Whether a normalizer does nothing.
pub(super) fn is_empty(normalizer: &Value) -> bool {
    normalizer.is_null() || *normalizer == serde_json::json!({ "type": "Sequence", "normalizers": [] })
}
