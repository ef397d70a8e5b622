//! The kernels, written for any processor.

use super::super::line::{NONE, Pairs, RANK, RANK_BITS};
use std::hint::select_unpredictable;

/// Bytes in a block.
pub(in super::super) const BYTES: usize = 64;

/// Bit `i` of a mask is byte `i` of the block. A byte behind the end of the text has no bit at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) struct Block {
    pub(in super::super) letters: u64,
    pub(in super::super) digits: u64,
    /// The blank only.
    pub(in super::super) blanks: u64,
    /// Tabs, line breaks and similar characters.
    pub(in super::super) controls: u64,
    pub(in super::super) line_breaks: u64,
    pub(in super::super) apostrophes: u64,
    /// Bytes of characters beyond ASCII.
    pub(in super::super) wide: u64,
    /// ASCII that is none of these, apostrophes included.
    pub(in super::super) others: u64,
    /// Bytes of the text at all.
    pub(in super::super) inside: u64,
}

impl Block {
    /// The block that begins at `at`.
    #[inline(always)]
    pub(in super::super) fn of<C: Cpu>(cpu: C, text: &[u8], at: usize) -> Self {
        let whole = text.get(at..at + BYTES).and_then(|bytes| bytes.try_into().ok());
        let (block, inside) = match whole {
            Some(bytes) => (cpu.classify(bytes), u64::MAX),
            None => {
                let rest = &text[at.min(text.len())..];
                (cpu.classify_rest(rest), (1 << rest.len()) - 1)
            }
        };
        let known = block.letters | block.digits | block.blanks | block.controls | block.wide;
        Self { others: !known & inside, inside, ..block }
    }
}

/// A processor, as far as it matters here: what is written out is for any of them.
pub(in super::super) trait Cpu: Copy {
    /// Everything of a block but `others` and `inside`.
    fn classify(self, bytes: &[u8; BYTES]) -> Block;

    /// The same of fewer bytes than a block has.
    #[inline(always)]
    fn classify_rest(self, rest: &[u8]) -> Block {
        let mut bytes = [0; BYTES];
        bytes[..rest.len()].copy_from_slice(rest);
        self.classify(&bytes)
    }

    /// Writes `base` plus the place of each bit that is set, and unspecified values after them; returns how many they are.
    ///
    /// # Panics
    ///
    /// If there is no room for sixteen more than are set.
    #[inline(always)]
    fn places(self, mut bits: u64, base: u32, places: &mut [u32]) -> usize {
        let n = bits.count_ones() as usize;
        // Four at a time, for their number cannot be guessed.
        for place in &mut places[..n.next_multiple_of(4)] {
            *place = base + bits.trailing_zeros();
            bits &= bits.wrapping_sub(1);
        }
        n
    }

    /// Makes the [`name`] of each of eight pieces, given where they are cut, from the eight bytes at its beginning, and its place
    /// among a power of two; says which of them have none, one bit each.
    #[inline(always)]
    fn names_of_eight(
        self,
        cuts: &[u32; 9],
        apart: u64,
        power: u32,
        names: &mut [Name; 8],
        places: &mut [u32; 8],
    ) -> u8 {
        let mut without = 0;
        for (i, cut) in cuts.windows(2).enumerate() {
            let length = cut[1].wrapping_sub(cut[0]) as usize;
            let word = names[i];
            // In two halves, for a shift by all bits at once would be none.
            let half = 4 * (length as u32 % 16);
            let beyond = (u64::MAX << half) << half;
            names[i] = word & !beyond | (length as u64 % 8) << 56 | apart;
            places[i] = place(names[i], power);
            without |= u8::from((length > BRIEF) | ((length == BRIEF) & (word as i64 <= EIGHT))) << i;
        }
        without
    }

    /// The value whose name is `name`, or 0. A compiler makes branches of comparisons in plain code, which cannot be guessed.
    fn select(self, line: &NamedValues, name: u64) -> u64;

    /// The rank of a pair of symbols in a line of them, or [`NONE`].
    #[inline(always)]
    fn rank(self, line: &Pairs, pair: u64) -> u32 {
        line.0
            .iter()
            .fold(NONE, |rank, &slot| select_unpredictable(slot >> RANK_BITS == pair, (slot & RANK) as u32, rank))
    }

    /// Which of eight values are not [`is_plain`], one bit each.
    #[inline(always)]
    fn rare_of_eight(self, values: &[u64; 8]) -> u8 {
        let mut rare = 0;
        for (i, &value) in values.iter().enumerate() {
            rare |= u8::from(!is_plain(value)) << i;
        }
        rare
    }

    /// Writes the ids of eight values that are [`is_plain`], consecutively, and what is of no meaning behind them; how many
    /// they are.
    #[inline(always)]
    fn ids_of_eight(self, values: &[u64; 8], ids: &mut [u32; 16]) -> usize {
        let mut n = 0;
        for &value in values {
            ids[n % 16] = value as u32;
            ids[(n + 1) % 16] = (value >> 32) as u32 & SECOND;
            n += (value >> 62) as usize;
        }
        n
    }
}

/// A brief piece: its bytes if they are eight, or else their number behind them, in the highest. No eighth byte is so low.
pub(in super::super) type Name = u64;

/// Bytes of a piece that may have a name.
pub(in super::super) const BRIEF: usize = 8;

/// Names of eight bytes are above, as signed numbers: their eighth is ASCII, and no number of bytes.
pub(super) const EIGHT: i64 = (1 << 60) - 1;

/// The name of a piece, if it has one, given eight bytes from its beginning.
#[inline(always)]
pub(in super::super) fn name(word: u64, length: usize) -> Option<Name> {
    match length {
        0..BRIEF => Some(word & ((1 << (8 * length)) - 1) | (length as u64) << 56),
        BRIEF => Some(word).filter(|&word| word as i64 > EIGHT),
        _ => None,
    }
}

pub(super) const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The place of a name among a power of two.
#[inline(always)]
pub(in super::super) fn place(name: Name, power: u32) -> u32 {
    (name.wrapping_mul(SPREAD) >> (64 - power)) as u32
}

/// Four values with their names, as large as a line of the processor's cache.
#[derive(Clone, Copy, Default, bytemuck::Zeroable)]
#[repr(align(64))]
pub(in super::super) struct NamedValues {
    pub(in super::super) names: [u64; 4],
    pub(in super::super) values: [u64; 4],
}

/// Whether a value is one id or two, the first in its lower half and the second in its upper, and not 0 or a place: the upper two
/// bits say how many.
#[inline(always)]
pub(in super::super) fn is_plain(value: u64) -> bool {
    ((value >> 62) + 1) & 2 != 0
}

/// The bits of the second id.
pub(in super::super) const SECOND: u32 = u32::MAX >> 2;
