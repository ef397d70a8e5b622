//! SIMD kernels, chosen for the processor at hand: sixty-four bytes as one bit per byte and class, a
//! name in a line of the cache, ids from eight values.
//!
//! This is the one module of the core with unsafe code: calls of code that needs certain instructions, on processors that have
//! them, loads and stores of whole arrays, and a prefetch.

mod kernels;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use kernels::{BYTES, Block, Cpu, Name, NamedValues, SECOND, is_plain, name, place};

/// What needs no asking.
#[cfg(target_arch = "x86_64")]
pub(super) const PLAIN: x86::Sse2 = x86::Sse2;
#[cfg(not(target_arch = "x86_64"))]
pub(super) const PLAIN: Any = Any;

/// Something to do for [`fastest`]. `run` must be `inline(always)`, and so must what it calls, or it is not compiled again; which is why it
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
    use super::super::line::{NONE, Pairs, RANK, RANK_BITS};
    use super::*;

    #[test]
    fn every_byte_has_its_class_at_every_place() {
        for first in 0..=255_u8 {
            let bytes = std::array::from_fn(|i| first.wrapping_add((i as u8).wrapping_mul(37)));
            let expected = Any.classify(&bytes);
            assert_eq!(all(|cpu| cpu.classify(&bytes)), vec![expected; all(|_| ()).len()]);
        }
    }

    /// The results of every implementation that this processor can run.
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
        fn rare_of_eight(&self, values: &[u64; 8]) -> u8;
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

        fn rare_of_eight(&self, values: &[u64; 8]) -> u8 {
            Cpu::rare_of_eight(*self, values)
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
        for first in 0..4 {
            let values: [u64; 8] = std::array::from_fn(|i| kinds[(first + i * i + i / 3) % 4]);
            let expected = (0..8).filter(|&i| !is_plain(values[i])).fold(0, |rare, i| rare | 1_u8 << i);
            assert!(expected != 0 && expected != u8::MAX);
            assert!(all(|cpu| cpu.rare_of_eight(&values)).iter().all(|&rare| rare == expected));
        }
    }

    #[test]
    fn nothing_stands_behind_the_end() {
        let block = Block::of(Any, b"a!", 0);
        assert_eq!((block.letters, block.others, block.inside), (0b01, 0b10, 0b11));
    }
}
