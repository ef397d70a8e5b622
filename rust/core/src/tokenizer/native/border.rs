//! Where no merge can ever cross.
//!
//! A merge joins two symbols into a token, so a token's text lies across every border that a merge crosses. Two
//! neighbouring characters that stand side by side in no token of the vocabulary therefore never share a token, and
//! what stands left and right of them can be merged apart, with the same result. That turns a sentence without blanks (Chinese), or a
//! whole text (SentencePiece), into pieces of a few characters, most of them well known.
//!
//! [`Borders`] is one bitmap of hashed evidence, so it may call a border open that is not; that costs time, never a
//! token. Tokens of byte-level vocabularies may begin or end inside a character; their evidence is kept by byte.

use super::classes::decode;

/// Bits for pairs of characters.
const PAIRS: usize = 1 << 20;
/// Bits for a last byte with a character behind it; as many for a character with a first byte behind it.
const PARTS: usize = 1 << 16;
/// Bits for a last byte with a first byte: one each.
const BYTES: usize = 1 << 16;
/// Words of the bitmap.
pub(super) const WORDS: usize = (PAIRS + 2 * PARTS + BYTES) / 64;

#[inline(always)]
fn mix(a: u32, b: u32) -> usize {
    let mixed = (u64::from(a) << 21 | u64::from(b)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize
}

fn pair(a: u32, b: u32) -> usize {
    mix(a, b) % PAIRS
}

fn end_of_left(last: u8, right: u32) -> usize {
    PAIRS + mix(u32::from(last), right) % PARTS
}

fn start_of_right(left: u32, first: u8) -> usize {
    PAIRS + PARTS + mix(left, u32::from(first)) % PARTS
}

fn bytes(last: u8, first: u8) -> usize {
    PAIRS + 2 * PARTS + usize::from(last) * 256 + usize::from(first)
}

/// The bitmap.
#[derive(Clone, Copy)]
pub(super) struct Borders<'t>(pub(super) &'t [u64]);

impl Borders<'_> {
    #[inline(always)]
    fn has(self, bit: usize) -> bool {
        self.0.get(bit / 64).is_none_or(|word| word >> (bit % 64) & 1 != 0)
    }

    /// The end of the stretch that begins at `start`: the first border that no token crosses, or the end of `text`.
    #[inline(always)]
    pub(super) fn end(self, text: &[u8], start: usize) -> usize {
        let (mut left, length) = decode(text, start);
        let mut at = start + length;
        while at < text.len() {
            let (right, length) = decode(text, at);
            let (last, first) = (text[at - 1], text[at]);
            let crossed = self.has(pair(left, right))
                || self.has(end_of_left(last, right))
                || self.has(start_of_right(left, first))
                || self.has(bytes(last, first));
            if !crossed {
                return at;
            }
            left = right;
            at += length;
        }
        text.len()
    }

    /// Whether no token ends or begins inside a character at any border within `text`, so that every merge across one joins
    /// whole characters.
    pub(super) fn whole_characters(self, text: &[u8]) -> bool {
        let (mut left, length) = decode(text, 0);
        let mut at = length;
        while at < text.len() {
            let (right, length) = decode(text, at);
            let (last, first) = (text[at - 1], text[at]);
            if self.has(end_of_left(last, right))
                || self.has(start_of_right(left, first))
                || self.has(bytes(last, first))
            {
                return false;
            }
            left = right;
            at += length;
        }
        true
    }
}

/// The evidence of one token.
pub(super) fn note(bitmap: &mut [u64], token: &[u8]) {
    let mut set = |bit: usize| bitmap[bit / 64] |= 1 << (bit % 64);
    let lead = token.iter().take_while(|&&b| b & 0xc0 == 0x80).count();
    let mut at = lead;
    // What stands left of `at`: the end of a character that began before the token, or a whole one.
    let mut left = (lead > 0).then(|| (token[lead - 1], None));
    while at < token.len() {
        let width = match token[at] {
            0..0x80 => 1,
            0x80..0xe0 => 2,
            0xe0..0xf0 => 3,
            _ => 4,
        };
        let first = token[at];
        if at + width > token.len() {
            // The beginning of a character that ends behind the token.
            match left {
                Some((_, Some(left))) => set(start_of_right(left, first)),
                Some((last, None)) => set(bytes(last, first)),
                None => {}
            }
            return;
        }
        let (right, _) = decode(token, at);
        match left {
            Some((_, Some(left))) => set(pair(left, right)),
            Some((last, None)) => set(end_of_left(last, right)),
            None => {}
        }
        at += width;
        left = Some((token[at - 1], Some(right)));
    }
}
