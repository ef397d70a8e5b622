//! The added tokens of a `tokenizer.json`.

use serde::{Deserialize, Serialize};

/// A token beside the vocabulary, with the flags that `tokenizers` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub content: String,
    /// It is a control token, whatever a template does with it.
    #[serde(default)]
    pub special: bool,
    /// It is one only where no word character stands beside it.
    #[serde(default)]
    pub single_word: bool,
    /// White space before it is part of it.
    #[serde(default)]
    pub lstrip: bool,
    /// White space behind it is part of it.
    #[serde(default)]
    pub rstrip: bool,
    /// It is looked for in text that has been normalized, itself normalized.
    #[serde(default)]
    pub normalized: bool,
}

/// Gives the tokens the ids that the reference gives them: those of the vocabulary, and new ones in the order of the file
/// from the size of the vocabulary on. What the file says itself is not read: where ids have gaps, the two differ.
pub(super) fn assign(added: &mut Vec<AddedToken>, vocabulary: usize, id_of: impl Fn(&str) -> Option<u32>) {
    added.retain(|token| !token.content.is_empty());
    let mut next = vocabulary as u32;
    for i in 0..added.len() {
        let (before, rest) = added.split_at_mut(i);
        let token = &mut rest[0];
        let known = before.iter().find(|other| other.content == token.content).map(|other| other.id);
        token.id = known.or_else(|| id_of(&token.content)).unwrap_or_else(|| {
            next += 1;
            next - 1
        });
    }
}
