//! What is done for many bytes or pieces at once, as well as the processor can: sixty-four bytes as one bit a byte and class, a
//! name in a line of the cache, ids from eight values.
//!
//! This is the one module of the core with unsafe code: calls of code that needs certain instructions, on processors that have
//! them, loads and stores of whole arrays, and a prefetch.

#[cfg(target_arch = "x86_64")]
mod x86;

use super::tables::{NONE, Pairs, RANK, RANK_BITS};
use std::hint::select_unpredictable;

/// Bytes in a block.
pub(super) const BYTES: usize = 64;

/// Bit `i` of a mask is byte `i` of the block. A byte behind the end of the text has no bit at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Block {
    pub(super) letters: u64,
    pub(super) digits: u64,
    /// The blank only.
    pub(super) blanks: u64,
    /// Tabs, line breaks and their like.
    pub(super) controls: u64,
    pub(super) line_breaks: u64,
    pub(super) apostrophes: u64,
    /// Bytes of characters beyond ASCII.
    pub(super) wide: u64,
    /// ASCII that is none of these, apostrophes included.
    pub(super) others: u64,
    /// Bytes of the text at all.
    pub(super) inside: u64,
}

impl Block {
    /// The block that begins at `at`.
    #[inline(always)]
    pub(super) fn of<C: Cpu>(cpu: C, text: &[u8], at: usize) -> Self {
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
pub(super) trait Cpu: Copy {
    /// Everything of a block but `others` and `inside`.
    fn classify(self, bytes: &[u8; BYTES]) -> Block;

    /// The same of fewer bytes than a block has.
    #[inline(always)]
    fn classify_rest(self, rest: &[u8]) -> Block {
        let mut bytes = [0; BYTES];
        bytes[..rest.len()].copy_from_slice(rest);
        self.classify(&bytes)
    }

    /// Writes `base` plus the place of each bit that is set, and what is of no meaning behind them; how many they are.
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

    /// Which of the values are not [`is_plain`], one bit each.
    #[inline(always)]
    fn rare(self, values: &[u64; 64]) -> u64 {
        values.iter().rev().fold(0, |rare, &value| rare << 1 | u64::from(!is_plain(value)))
    }

    /// Writes the ids of eight values that are [`is_plain`], one behind the other, and what is of no meaning behind them; how many
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
pub(super) type Name = u64;

/// Bytes of a piece that may have a name.
pub(super) const BRIEF: usize = 8;

/// Names of eight bytes are above, as signed numbers: their eighth is ASCII, and no number of bytes.
const EIGHT: i64 = (1 << 60) - 1;

/// The name of a piece, if it has one, given eight bytes from its beginning.
#[inline(always)]
pub(super) fn name(word: u64, length: usize) -> Option<Name> {
    match length {
        0..BRIEF => Some(word & ((1 << (8 * length)) - 1) | (length as u64) << 56),
        BRIEF => Some(word).filter(|&word| word as i64 > EIGHT),
        _ => None,
    }
}

const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The place of a name among a power of two.
#[inline(always)]
pub(super) fn place(name: Name, power: u32) -> u32 {
    (name.wrapping_mul(SPREAD) >> (64 - power)) as u32
}

/// Four values with their names, as large as a line of the processor's cache.
#[derive(Clone, Copy, Default, bytemuck::Zeroable)]
#[repr(align(64))]
pub(super) struct NamedValues {
    pub(super) names: [u64; 4],
    pub(super) values: [u64; 4],
}

/// Whether a value is one id or two, the first in its lower half and the second in its upper, and not 0 or a place: the upper two
/// bits say how many.
#[inline(always)]
pub(super) fn is_plain(value: u64) -> bool {
    ((value >> 62) + 1) & 2 != 0
}

/// The bits of the second id.
pub(super) const SECOND: u32 = u32::MAX >> 2;

/// What needs no asking.
#[cfg(target_arch = "x86_64")]
pub(super) const PLAIN: x86::Sse2 = x86::Sse2;
#[cfg(not(target_arch = "x86_64"))]
pub(super) const PLAIN: Any = Any;

/// Something to do for [`fastest`]. `run` must be `inline(always)`, and so must what it calls, or it is not compiled anew; which is why it
/// is not a closure.
pub(super) trait Work {
    type Done;

    fn run(self, cpu: impl Cpu) -> Self::Done;
}

/// Runs `work` compiled for what the processor has: finding the next set bit is several times dearer without BMI, and so
/// are masks without AVX-512.
#[inline(always)]
#[allow(unsafe_code, reason = "the processor is asked first")]
pub(super) fn fastest<W: Work>(work: W) -> W::Done {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
        fn with_avx2<W: Work>(work: W) -> W::Done {
            work.run(x86::Sse2)
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,lzcnt,popcnt")]
        fn with_avx512<W: Work>(work: W, cpu: x86::Avx512) -> W::Done {
            work.run(cpu)
        }
        match *x86::KIND {
            // SAFETY: the processor has said that it has all of them.
            x86::Kind::Avx512(cpu) => return unsafe { with_avx512(work, cpu) },
            // SAFETY: as above.
            x86::Kind::Avx2 => return unsafe { with_avx2(work) },
            x86::Kind::Other => {}
        }
    }
    work.run(PLAIN)
}

/// Asks for the memory of `line` ahead of its use.
#[inline(always)]
#[allow(unsafe_code, reason = "a hint to the processor")]
pub(super) fn prefetch<T>(line: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86-64 itself; a prefetch changes nothing that a program can see, and the address is that
        // of a reference.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Any processor: byte by byte.
#[cfg(any(test, not(target_arch = "x86_64")))]
#[derive(Clone, Copy)]
pub(super) struct Any;

#[cfg(any(test, not(target_arch = "x86_64")))]
impl Cpu for Any {
    fn classify(self, bytes: &[u8; BYTES]) -> Block {
        let mut block = Block::default();
        for (i, &byte) in bytes.iter().enumerate() {
            let bit = 1 << i;
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' => block.letters |= bit,
                b'0'..=b'9' => block.digits |= bit,
                b' ' => block.blanks |= bit,
                b'\t'..=b'\r' => block.controls |= bit,
                b'\'' => block.apostrophes |= bit,
                0x80.. => block.wide |= bit,
                _ => {}
            }
            if matches!(byte, b'\n' | b'\r') {
                block.line_breaks |= bit;
            }
        }
        block
    }

    fn select(self, line: &NamedValues, name: u64) -> u64 {
        let each = line.names.iter().zip(&line.values);
        each.fold(0, |all, (&own, &value)| all | u64::from(own == name).wrapping_neg() & value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_class_at_every_place() {
        for first in 0..=255_u8 {
            let bytes = std::array::from_fn(|i| first.wrapping_add((i as u8).wrapping_mul(37)));
            let expected = Any.classify(&bytes);
            assert_eq!(all(|cpu| cpu.classify(&bytes)), vec![expected; all(|_| ()).len()]);
        }
    }

    /// What every kind of processor gives that can be asked here.
    fn all<T>(ask: impl Fn(&dyn Ask) -> T) -> Vec<T> {
        let mut given = vec![ask(&Any)];
        #[cfg(target_arch = "x86_64")]
        {
            given.push(ask(&x86::Sse2));
            if let x86::Kind::Avx512(cpu) = &*x86::KIND {
                given.push(ask(cpu));
            }
        }
        given
    }

    /// [`Cpu`], as an object.
    trait Ask {
        fn classify(&self, bytes: &[u8; BYTES]) -> Block;
        fn classify_rest(&self, rest: &[u8]) -> Block;
        fn places(&self, bits: u64, base: u32) -> Vec<u32>;
        fn names_of_eight(&self, cuts: &[u32; 9], apart: u64, words: [u64; 8]) -> ([Name; 8], [u32; 8], u8);
        fn select(&self, line: &NamedValues, name: u64) -> u64;
        fn rank(&self, line: &Pairs, pair: u64) -> u32;
        fn rare(&self, values: &[u64; 64]) -> u64;
        fn ids_of_eight(&self, values: &[u64; 8]) -> Vec<u32>;
    }

    impl<C: Cpu> Ask for C {
        fn classify(&self, bytes: &[u8; BYTES]) -> Block {
            Cpu::classify(*self, bytes)
        }

        fn places(&self, bits: u64, base: u32) -> Vec<u32> {
            let mut places = vec![0; 64 + 16];
            let n = Cpu::places(*self, bits, base, &mut places);
            places.truncate(n);
            places
        }

        fn classify_rest(&self, rest: &[u8]) -> Block {
            Cpu::classify_rest(*self, rest)
        }

        fn names_of_eight(&self, cuts: &[u32; 9], apart: u64, mut words: [u64; 8]) -> ([Name; 8], [u32; 8], u8) {
            let mut places = [0; 8];
            let without = Cpu::names_of_eight(*self, cuts, apart, 14, &mut words, &mut places);
            (words, places, without)
        }

        fn select(&self, line: &NamedValues, name: u64) -> u64 {
            Cpu::select(*self, line, name)
        }

        fn rank(&self, line: &Pairs, pair: u64) -> u32 {
            Cpu::rank(*self, line, pair)
        }

        fn rare(&self, values: &[u64; 64]) -> u64 {
            Cpu::rare(*self, values)
        }

        fn ids_of_eight(&self, values: &[u64; 8]) -> Vec<u32> {
            let mut ids = [0; 16];
            let n = Cpu::ids_of_eight(*self, values, &mut ids);
            ids[..n].to_vec()
        }
    }

    #[test]
    fn what_a_block_lacks_is_not_read() {
        let bytes: Vec<u8> = (0..63).map(|i| b"a1 \n'!\xc3"[i % 7]).collect();
        for length in 0..bytes.len() {
            let expected = Any.classify_rest(&bytes[..length]);
            assert!(all(|cpu| cpu.classify_rest(&bytes[..length])).iter().all(|&block| block == expected), "{length}");
        }
    }

    #[test]
    fn a_name_belongs_to_one_piece() {
        let texts =
            ["", "a", "ab", "a\0", "abcdefg", "abcdefg\0", "abcdefgh", "abcdefg\x08", "中文a", "abcde中", "abcdefgé"];
        let texts = texts.iter().map(|text| text.as_bytes()).chain([&[0; 7][..], &[0; 8], &[0xff; 7], b"abcdefghi"]);
        let mut seen = std::collections::HashMap::new();
        for text in texts {
            let mut bytes = [b'x'; 16];
            bytes[..text.len()].copy_from_slice(text);
            let word = u64::from_le_bytes(*bytes.first_chunk().unwrap());
            let expected = name(word, text.len());
            for apart in [0, 1 << 63] {
                for (at, word_before) in [(0, 0), (3, u64::MAX), (7, 1)] {
                    let mut cuts = [40; 9];
                    cuts[at + 1..].fill(40 + text.len() as u32);
                    let mut words = [word_before; 8];
                    words[at] = word;
                    for (names, places, without) in all(|cpu| cpu.names_of_eight(&cuts, apart, words)) {
                        assert_eq!(without >> at & 1 != 0, expected.is_none(), "{text:?}");
                        if let Some(expected) = expected {
                            assert_eq!((names[at], places[at]), (expected | apart, place(expected | apart, 14)));
                            assert_eq!(
                                *seen.entry(names[at]).or_insert((text.to_vec(), apart)),
                                (text.to_vec(), apart)
                            );
                        }
                    }
                }
            }
        }
        assert!(seen.len() >= 18, "most have a name");
    }

    #[test]
    fn places_are_those_of_the_bits() {
        for bits in [0, 1, 1 << 63, u64::MAX, 0x8000_8001_0001_0180, 0x0123_4567_89ab_cdef] {
            let expected: Vec<u32> = (0..64).filter(|i| bits >> i & 1 != 0).map(|i| 1000 + i).collect();
            assert!(all(|cpu| cpu.places(bits, 1000)).iter().all(|places| *places == expected));
        }
    }

    #[test]
    fn the_value_of_a_name_is_found_wherever_it_stands() {
        // Names that differ in one half only are others.
        let line = NamedValues { names: [7, 7 << 32, 7 << 32 | 8, 9], values: [1, 1 << 63, 3, 4] };
        for (name, value) in line.names.into_iter().zip(line.values) {
            assert!(all(|cpu| cpu.select(&line, name)).iter().all(|&found| found == value));
        }
        for name in [7 << 32 | 7, 8, 1, 3] {
            assert!(all(|cpu| cpu.select(&line, name)).iter().all(|&found| found == 0));
        }
    }

    #[test]
    fn eight_values_are_their_ids() {
        let one = |id: u64| 1 << 62 | id;
        let two = |first: u64, second: u64| 2 << 62 | second << 32 | first;
        let values = [one(5), two(6, 7), two(8, 0x3fff_ffff), one(0xffff_ffff), one(0), two(0, 0), one(9), two(1, 2)];
        let ids = vec![5, 6, 7, 8, 0x3fff_ffff, 0xffff_ffff, 0, 0, 0, 9, 1, 2];
        assert!(all(|cpu| cpu.ids_of_eight(&values)).iter().all(|found| *found == ids));
        let full = [two(1, 2); 8];
        assert!(all(|cpu| cpu.ids_of_eight(&full)).iter().all(|found| *found == [1, 2].repeat(8)));
    }

    #[test]
    fn the_rank_of_a_pair_is_found_wherever_it_stands() {
        let pairs = [3, 1 << 41, 5, 6, 7 << 20, 8];
        let mut line = Pairs([u64::MAX; 8]);
        for (rank, (slot, pair)) in line.0.iter_mut().zip(pairs).enumerate() {
            *slot = pair << RANK_BITS | (RANK - rank as u64);
        }
        for (rank, pair) in pairs.into_iter().enumerate() {
            let expected = (RANK - rank as u64) as u32;
            assert!(all(|cpu| cpu.rank(&line, pair)).iter().all(|&found| found == expected));
        }
        assert!(all(|cpu| cpu.rank(&line, 4)).iter().all(|&found| found == NONE));
    }

    #[test]
    fn rare_is_nothing_and_a_place() {
        let kinds = [0, 1 << 62 | 5, 2 << 62 | 6, 3 << 62 | 7];
        let values: [u64; 64] = std::array::from_fn(|i| kinds[(i * i + i / 7) % 4]);
        let expected = (0..64).filter(|&i| !is_plain(values[i])).fold(0, |rare, i| rare | 1_u64 << i);
        assert!(expected.count_ones() > 16 && expected.count_zeros() > 16);
        assert!(all(|cpu| cpu.rare(&values)).iter().all(|&rare| rare == expected));
    }

    #[test]
    fn nothing_stands_behind_the_end() {
        let block = Block::of(Any, b"a!", 0);
        assert_eq!((block.letters, block.others, block.inside), (0b01, 0b10, 0b11));
    }
}
