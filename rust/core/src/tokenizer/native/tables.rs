//! A tokenizer as flat arrays: what encoding looks things up in, and what the compiled file holds.

use super::bytes::load;
use super::cpu::{self, Cpu};
use super::deepseek::DeepSeek;
use super::line::{FREE, ID_BITS, LINE, NONE, Pairs, RANK, RANK_BITS};
use super::metaspace::Metaspace;
use super::unknown::Unknown;
use crate::tokenizer::added::AddedToken;
use serde::{Deserialize, Serialize};

/// Bytes that fit into a key; the sixteenth holds their number, so no two texts share a key.
pub(super) const SHORT: usize = 15;
/// Marks a token in [`Tables::short`] and [`Tables::long`] that merging never gives: with `ignore_merges` a whole piece may
/// still be it.
pub(super) const WHOLE_ONLY: u32 = 1 << 31;
/// How text becomes pieces and pieces symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Pattern {
    Qwen,
    Qwen35,
    Llama3,
    Gpt2,
    Smol,
    O200k,
    Tekken,
    DeepSeek(DeepSeek),
    /// [`Head::splits`].
    Regexes,
    /// SentencePiece: characters are the first symbols, bytes stand in for unknown ones.
    Metaspace(Metaspace),
}

impl Pattern {
    pub(super) fn is_metaspace(self) -> bool {
        matches!(self, Self::Metaspace(_))
    }
}

/// The small part: written as JSON at the head of the compiled file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) pattern: Pattern,
    /// The split patterns of [`Pattern::Regexes`], in order.
    pub(super) splits: Vec<String>,
    /// What happens to characters that are no tokens.
    pub(super) unknown: Unknown,
    /// The text is brought to NFC first.
    pub(super) nfc: bool,
    /// Whether a piece that is in the vocabulary is that token, whatever merging would give.
    pub(super) ignore_merges: bool,
    /// Whether [`WHOLE_ONLY`] occurs.
    pub(super) whole_only: bool,
    /// Whether every merge ranks behind those that make its parts, as in any trained vocabulary.
    pub(super) monotone: bool,
    /// The largest id of the vocabulary.
    pub(super) largest: u32,
    pub(super) added: Vec<AddedToken>,
}

/// The arrays. Tables with keys are open-addressed, a power of two long, and never full.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tables {
    /// Id of each byte, or [`NONE`]: the first symbols of a piece, or with [`Pattern::Metaspace`] what stands in for an
    /// unknown character.
    pub(super) byte_ids: Vec<u32>,
    /// `[key, key, id]` of tokens of at most [`SHORT`] bytes; key 0 is a free slot.
    pub(super) short: Vec<[u64; 3]>,
    /// Longer tokens: `[offset, length, id]` into `bytes`, sorted by content.
    pub(super) long: Vec<[u32; 3]>,
    pub(super) bytes: Vec<u8>,
    /// Rank of the merge of two bytes, or [`NONE`]; 65,536 of them, or none with [`Pattern::Metaspace`].
    pub(super) byte_pairs: Vec<u32>,
    /// Every merge, in a power of two of lines. A full line may continue in the next.
    pub(super) pairs: Vec<Pairs>,
    /// The token that a character of the Basic Multilingual Plane is, or [`NONE`].
    pub(super) characters: Vec<u32>,
    /// The token that the merge of a rank gives.
    pub(super) merged: Vec<u32>,
    /// See [`super::border`].
    pub(super) borders: Vec<u64>,
}

/// Sixteen bytes as two halves: the text's first 15, and its length.
pub(super) type Key = [u64; 2];

/// Keeps the first bytes of sixteen, by their number.
const MASKS: [Key; 16] = {
    let mut masks = [[0; 2]; 16];
    let mut i = 0;
    while i < 16 {
        let mask = (1_u128 << (8 * i)) - 1;
        masks[i] = [mask as u64, (mask >> 64) as u64];
        i += 1;
    }
    masks
};

/// Key of a text of at most [`SHORT`] bytes, given sixteen bytes from its beginning.
#[inline(always)]
pub(super) fn key(word: u128, length: usize) -> Key {
    let [low, high] = MASKS[length % 16];
    [word as u64 & low, (word >> 64) as u64 & high | (length as u64) << 56]
}

/// Key of a short text on its own.
pub(super) fn key_of(text: &[u8]) -> Key {
    key(load(text, 0), text.len())
}

/// A number whose high bits depend on every bit of the key: what a table's place is taken from.
#[inline(always)]
pub(super) fn hash(key: Key) -> u64 {
    key[0].wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(key[1].wrapping_mul(0xc2b2_ae3d_27d4_eb4f))
}

#[inline(always)]
fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << ID_BITS | u64::from(right)
}

#[inline(always)]
fn hash_pair(pair: u64) -> u64 {
    pair.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Where in a table of a power of two places a hash begins to look.
#[inline(always)]
fn place(hash: u64, places: usize) -> usize {
    (hash >> (places.leading_zeros() & 63)) as usize >> 1 & (places - 1)
}

/// Walks an open-addressed table from the slot that the hash names.
#[inline(always)]
fn probe<T: Copy, V>(table: &[T], hash: u64, mut look: impl FnMut(T) -> Option<Option<V>>) -> Option<V> {
    let mask = table.len().checked_sub(1)?;
    let mut at = place(hash, table.len());
    // Bounded, should a damaged table have no free slot.
    for _ in 0..table.len() {
        match look(table[at]) {
            Some(answer) => return answer,
            None => at = (at + 1) & mask,
        }
    }
    None
}

impl Tables {
    /// The token of a short text, with its [`WHOLE_ONLY`] bit.
    #[inline(always)]
    pub(super) fn short(&self, key: Key) -> Option<u32> {
        probe(&self.short, hash(key), |[a, b, id]| {
            if [a, b] == key {
                Some(Some(id as u32))
            } else if b == 0 {
                Some(None)
            } else {
                None
            }
        })
    }

    /// Asks for the memory that [`Self::short`] will look at.
    #[inline(always)]
    pub(super) fn prefetch(&self, key: Key) {
        if let Some(slot) = self.short.get(place(hash(key), self.short.len())) {
            cpu::prefetch(slot);
        }
    }

    /// The token that a character is by merging, or [`NONE`].
    pub(super) fn character(&self, code: u32) -> u32 {
        let Some(c) = char::from_u32(code) else { return NONE };
        self.short(key_of(c.encode_utf8(&mut [0; 4]).as_bytes())).filter(|id| id & WHOLE_ONLY == 0).unwrap_or(NONE)
    }

    /// The token of a longer text, with its [`WHOLE_ONLY`] bit.
    pub(super) fn long(&self, text: &[u8]) -> Option<u32> {
        let content = |&[offset, length, _]: &[u32; 3]| {
            self.bytes.get(offset as usize..(offset + length) as usize).unwrap_or_default()
        };
        let found = self.long.binary_search_by(|entry| content(entry).cmp(text)).ok()?;
        Some(self.long[found][2])
    }

    /// The rank at which two symbols merge, or [`NONE`]. No branch but one that is nearly always taken: whether two symbols
    /// merge cannot be guessed.
    #[inline(always)]
    pub(super) fn rank(&self, cpu: impl Cpu, left: u32, right: u32) -> u32 {
        let pair = pair_key(left, right);
        let mut at = place(hash_pair(pair), self.pairs.len());
        // Bounded, should a damaged table be full.
        for _ in 0..self.pairs.len() {
            let line = &self.pairs[at];
            let rank = cpu.rank(line, pair);
            if (rank != NONE) | (line.0[LINE - 1] == FREE) {
                return rank;
            }
            at = (at + 1) % self.pairs.len();
        }
        NONE
    }

    /// Makes the table of merges; of a pair that is there twice the later one counts.
    pub(super) fn set_pairs(&mut self, merges: &[(u32, u32)]) {
        self.pairs = vec![Pairs([FREE; LINE]); (merges.len() / 4 + 2).next_power_of_two()];
        let mask = self.pairs.len() - 1;
        for (rank, &(left, right)) in merges.iter().enumerate() {
            let pair = pair_key(left, right);
            let mut at = place(hash_pair(pair), mask + 1);
            let slot = loop {
                let free = |slot: &u64| *slot == FREE || slot >> RANK_BITS == pair;
                match self.pairs[at].0.iter().position(free) {
                    Some(slot) => break slot,
                    None => at = (at + 1) & mask,
                }
            };
            self.pairs[at].0[slot] = pair << RANK_BITS | rank as u64;
        }
    }

    /// Makes the tables of whole tokens.
    pub(super) fn set_tokens(&mut self, tokens: &[(&[u8], u32)]) {
        self.short = vec![[0; 3]; (tokens.len() * 3 / 2 + 2).next_power_of_two()];
        let mask = self.short.len() - 1;
        for &(text, id) in tokens {
            if text.len() <= SHORT {
                let [a, b] = key_of(text);
                let mut at = place(hash([a, b]), mask + 1);
                while self.short[at][1] != 0 {
                    at = (at + 1) & mask;
                }
                self.short[at] = [a, b, u64::from(id)];
            } else {
                self.long.push([self.bytes.len() as u32, text.len() as u32, id]);
                self.bytes.extend(text);
            }
        }
        let bytes = &self.bytes;
        self.long.sort_by(|a, b| {
            let content = |e: &[u32; 3]| &bytes[e[0] as usize..(e[0] + e[1]) as usize];
            content(a).cmp(content(b))
        });
    }
}

impl Tables {
    /// Whether every index that is used without a second look lies where it must.
    pub(super) fn fit_together(&self) -> bool {
        let power = |n: usize| n.is_power_of_two();
        let merges = self.merged.len() as u32;
        self.byte_ids.len() == 256
            && power(self.short.len())
            && power(self.pairs.len())
            && (self.byte_pairs.is_empty() || self.byte_pairs.len() == 1 << 16)
            && self.byte_pairs.iter().all(|&rank| rank == NONE || rank < merges)
            && self.characters.len() == 1 << 16
            && self.pairs.iter().flat_map(|line| line.0).all(|slot| slot == FREE || slot & RANK < u64::from(merges))
            && self.long.iter().all(|&[offset, length, _]| offset as usize + length as usize <= self.bytes.len())
    }
}
