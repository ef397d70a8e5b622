//! Characters that a vocabulary does not have: bytes stand in for them, or an unknown token, or nothing does.

use super::line::NONE;
use serde::{Deserialize, Serialize};

/// What a tokenizer does with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unknown {
    /// Whether there are any that no token stands in for.
    pub(super) lacking: bool,
    /// Bytes stand in for a character, if there is a token for each.
    pub(super) by_bytes: bool,
    /// The token for all others; without one they are dropped.
    pub(super) token: Option<u32>,
    /// Neighbours share one.
    pub(super) fused: bool,
}

/// The bytes of a text as characters, which is what they are in a byte-level vocabulary.
pub(super) fn by_byte<'c>(text: &'c [u8], byte_ids: &'c [u32]) -> impl Iterator<Item = (u32, &'c [u8])> {
    text.chunks(1).map(|byte| (byte_ids[usize::from(byte[0])], byte))
}

impl Unknown {
    /// Puts the symbols of characters, each with the id it has (or [`NONE`]) and its bytes, into `symbols`: as the
    /// reference does, where a token that waits for its neighbours comes behind bytes that stand in for the next character.
    pub(super) fn symbols<'c>(
        self,
        characters: impl Iterator<Item = (u32, &'c [u8])>,
        byte_ids: &[u32],
        symbols: &mut Vec<u32>,
    ) {
        symbols.clear();
        let mut waiting = None;
        for (id, bytes) in characters {
            if id != NONE {
                symbols.extend(waiting.take());
                symbols.push(id);
                continue;
            }
            let ids = bytes.iter().map(|&byte| byte_ids[usize::from(byte)]);
            if self.by_bytes && ids.clone().all(|id| id != NONE) {
                symbols.extend(ids);
            } else if self.token.is_some() {
                symbols.extend(waiting.filter(|_| !self.fused));
                waiting = self.token;
            }
        }
        symbols.extend(waiting);
    }
}
