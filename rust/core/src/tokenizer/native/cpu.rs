//! Sixty-four bytes at once, as one bit a byte and class: what the scanner reads the ends of words from.
//!
//! This is the one module of the core with unsafe code: a call of code that needs certain instructions, on
//! processors that have them, and a prefetch.

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
                let mut bytes = [0; BYTES];
                bytes[..rest.len()].copy_from_slice(rest);
                (cpu.classify(&bytes), (1 << rest.len()) - 1)
            }
        };
        let known = block.letters | block.digits | block.blanks | block.controls | block.wide;
        Self { others: !known & inside, inside, ..block }
    }
}

/// A processor, as far as it matters here.
pub(super) trait Cpu: Copy {
    /// Everything of a block but `others` and `inside`.
    fn classify(self, bytes: &[u8; BYTES]) -> Block;

    /// Writes `base` plus the place of each bit that is set, and what is of no meaning behind them; how many they are.
    ///
    /// # Panics
    ///
    /// If there is no room for sixteen more than are set.
    fn places(self, bits: u64, base: u32, places: &mut [u32]) -> usize;

    /// The value whose name is `name`, or 0. A compiler makes branches of comparisons in plain code, which cannot be guessed.
    fn select(self, line: &NamedValues, name: u64) -> u64;

    /// The rank of a pair of symbols in a line of them, or [`NONE`].
    fn rank(self, line: &Pairs, pair: u64) -> u32;

    /// Which of the values are not [`is_plain`], one bit each.
    fn rare(self, values: &[u64; 64]) -> u64;

    /// Writes the ids of eight values that are [`is_plain`], one behind the other, and what is of no meaning behind them; how many
    /// they are.
    fn ids_of_eight(self, values: &[u64; 8], ids: &mut [u32; 16]) -> usize;
}

/// Four values with their names, as large as a line of the processor's cache.
#[derive(Clone, Copy, Default)]
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

#[inline(always)]
fn places(mut bits: u64, base: u32, places: &mut [u32]) -> usize {
    let n = bits.count_ones() as usize;
    // Four at a time, for their number cannot be guessed.
    for place in &mut places[..n.next_multiple_of(4)] {
        *place = base + bits.trailing_zeros();
        bits &= bits.wrapping_sub(1);
    }
    n
}

#[inline(always)]
fn rank(line: &Pairs, pair: u64) -> u32 {
    line.0.iter().fold(NONE, |rank, &slot| select_unpredictable(slot >> RANK_BITS == pair, (slot & RANK) as u32, rank))
}

#[inline(always)]
fn rare(values: &[u64; 64]) -> u64 {
    values.iter().rev().fold(0, |rare, &value| rare << 1 | u64::from(!is_plain(value)))
}

#[inline(always)]
fn ids_of_eight(values: &[u64; 8], ids: &mut [u32; 16]) -> usize {
    let mut n = 0;
    for &value in values {
        ids[n % 16] = value as u32;
        ids[(n + 1) % 16] = (value >> 32) as u32 & SECOND;
        n += (value >> 62) as usize;
    }
    n
}

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

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BYTES, Block, Cpu, NamedValues, SECOND};
    use crate::tokenizer::native::tables::{Pairs, RANK, RANK_BITS};
    use std::arch::x86_64::{
        __m128i, __m512i, _mm_and_si128, _mm_cmpeq_epi8, _mm_cmpeq_epi32, _mm_cmpgt_epi8, _mm_cvtsi128_si64,
        _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8, _mm_set1_epi64x, _mm_shuffle_epi32,
        _mm_unpackhi_epi64, _mm512_add_epi32, _mm512_and_si512, _mm512_castsi512_si128, _mm512_cmpeq_epi8_mask,
        _mm512_cmpeq_epi64_mask, _mm512_cmplt_epu8_mask, _mm512_loadu_si512, _mm512_maskz_compress_epi32,
        _mm512_maskz_compress_epi64, _mm512_movepi8_mask, _mm512_movepi64_mask, _mm512_or_si512, _mm512_set_epi32,
        _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_slli_epi64, _mm512_srli_epi64,
        _mm512_storeu_si512, _mm512_sub_epi8, _mm512_xor_si512, _pdep_u32,
    };
    use std::sync::LazyLock;

    /// What every processor of the architecture has.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Sse2;

    impl Cpu for Sse2 {
        #[inline(always)]
        #[allow(unsafe_code, reason = "instructions that every processor of the architecture has")]
        fn classify(self, bytes: &[u8; BYTES]) -> Block {
            let mut block = Block::default();
            for part in 0..BYTES / 16 {
                let word = |i: usize| {
                    let mut eight = [0; 8];
                    eight.copy_from_slice(&bytes[part * 16 + i..part * 16 + i + 8]);
                    i64::from_le_bytes(eight)
                };
                // SAFETY: SSE2 is part of x86-64 itself, and none of these touches memory.
                unsafe {
                    let x = _mm_set_epi64x(word(8), word(0));
                    let is = |byte: u8| _mm_cmpeq_epi8(x, _mm_set1_epi8(byte as i8));
                    let between = |x: __m128i, low: u8, high: u8| {
                        let (above, below) = (_mm_set1_epi8(low as i8 - 1), _mm_set1_epi8(high as i8 + 1));
                        _mm_and_si128(_mm_cmpgt_epi8(x, above), _mm_cmpgt_epi8(below, x))
                    };
                    let mask = |x: __m128i| u64::from(_mm_movemask_epi8(x) as u32) << (part * 16);
                    block.letters |= mask(between(_mm_or_si128(x, _mm_set1_epi8(0x20)), b'a', b'z'));
                    block.digits |= mask(between(x, b'0', b'9'));
                    block.blanks |= mask(is(b' '));
                    block.controls |= mask(between(x, b'\t', b'\r'));
                    block.line_breaks |= mask(_mm_or_si128(is(b'\n'), is(b'\r')));
                    block.apostrophes |= mask(is(b'\''));
                    block.wide |= mask(x);
                }
            }
            block
        }

        #[inline(always)]
        fn places(self, bits: u64, base: u32, places: &mut [u32]) -> usize {
            super::places(bits, base, places)
        }

        #[inline(always)]
        #[allow(unsafe_code, reason = "instructions that every processor of the architecture has")]
        fn select(self, line: &NamedValues, name: u64) -> u64 {
            // SAFETY: SSE2 is part of x86-64 itself, and none of these touches memory.
            unsafe {
                let wanted = _mm_set1_epi64x(name as i64);
                let two = |at: usize| {
                    let pair = |of: &[u64; 4]| _mm_set_epi64x(of[at + 1] as i64, of[at] as i64);
                    let halves = _mm_cmpeq_epi32(pair(&line.names), wanted);
                    let swapped = _mm_shuffle_epi32::<0b10_11_00_01>(halves);
                    _mm_and_si128(_mm_and_si128(halves, swapped), pair(&line.values))
                };
                let both = _mm_or_si128(two(0), two(2));
                _mm_cvtsi128_si64(_mm_or_si128(both, _mm_unpackhi_epi64(both, both))) as u64
            }
        }

        #[inline(always)]
        fn rank(self, line: &Pairs, pair: u64) -> u32 {
            super::rank(line, pair)
        }

        #[inline(always)]
        fn rare(self, values: &[u64; 64]) -> u64 {
            super::rare(values)
        }

        #[inline(always)]
        fn ids_of_eight(self, values: &[u64; 8], ids: &mut [u32; 16]) -> usize {
            super::ids_of_eight(values, ids)
        }
    }

    /// Proof that the processor has AVX-512 for bytes, and BMI.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(());

    /// What the processor has, of what matters here.
    pub(super) enum Kind {
        Avx512(Avx512),
        Avx2,
        Other,
    }

    pub(super) static KIND: LazyLock<Kind> = LazyLock::new(|| {
        let bits = is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match (bits && is_x86_feature_detected!("avx2"), avx512) {
            (true, true) => Kind::Avx512(Avx512(())),
            (true, false) => Kind::Avx2,
            (false, _) => Kind::Other,
        }
    });

    impl Cpu for Avx512 {
        #[inline(always)]
        #[allow(unsafe_code, reason = "the value is the proof that the processor has what it needs")]
        fn classify(self, bytes: &[u8; BYTES]) -> Block {
            // SAFETY: there is no value of this type on a processor without these instructions; the one that reads memory reads
            // the block.
            unsafe {
                let x = _mm512_loadu_si512(bytes.as_ptr().cast());
                let is = |byte: u8| _mm512_cmpeq_epi8_mask(x, _mm512_set1_epi8(byte as i8));
                let between = |x: __m512i, low: u8, high: u8| {
                    let from_low = _mm512_sub_epi8(x, _mm512_set1_epi8(low as i8));
                    _mm512_cmplt_epu8_mask(from_low, _mm512_set1_epi8((high - low + 1) as i8))
                };
                Block {
                    letters: between(_mm512_or_si512(x, _mm512_set1_epi8(0x20)), b'a', b'z'),
                    digits: between(x, b'0', b'9'),
                    blanks: is(b' '),
                    controls: between(x, b'\t', b'\r'),
                    line_breaks: is(b'\n') | is(b'\r'),
                    apostrophes: is(b'\''),
                    wide: _mm512_movepi8_mask(x),
                    ..Block::default()
                }
            }
        }

        #[inline(always)]
        #[allow(unsafe_code, reason = "the value is the proof that the processor has what it needs")]
        fn places(self, bits: u64, base: u32, places: &mut [u32]) -> usize {
            let mut n = 0;
            for part in 0..4 {
                let some = (bits >> (part * 16)) as u16;
                let room: &mut [u32; 16] = (&mut places[n..n + 16]).try_into().unwrap_or_else(|_| unreachable!());
                // SAFETY: there is no value of this type on a processor without these instructions; the one that writes memory
                // writes sixteen numbers.
                unsafe {
                    let first = _mm512_set1_epi32((base + part * 16) as i32);
                    let all =
                        _mm512_add_epi32(first, _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
                    _mm512_storeu_si512(room.as_mut_ptr().cast(), _mm512_maskz_compress_epi32(some, all));
                }
                n += some.count_ones() as usize;
            }
            n
        }

        #[inline(always)]
        #[allow(unsafe_code, reason = "the value is the proof that the processor has what it needs")]
        fn select(self, line: &NamedValues, name: u64) -> u64 {
            // SAFETY: there is no value of this type on a processor without these instructions; the one that reads memory reads
            // the line, which is 64 bytes long.
            unsafe {
                let line = _mm512_loadu_si512(std::ptr::from_ref(line).cast());
                let same = _mm512_cmpeq_epi64_mask(line, _mm512_set1_epi64(name as i64)) & 0b1111;
                let value = _mm512_maskz_compress_epi64(same << 4, line);
                _mm_cvtsi128_si64(_mm512_castsi512_si128(value)) as u64
            }
        }

        #[inline(always)]
        #[allow(unsafe_code, reason = "the value is the proof that the processor has what it needs")]
        fn rank(self, line: &Pairs, pair: u64) -> u32 {
            // SAFETY: there is no value of this type on a processor without these instructions; the one that reads memory reads
            // the line, which is 64 bytes long.
            unsafe {
                let line = _mm512_loadu_si512(line.0.as_ptr().cast());
                let pairs = _mm512_srli_epi64::<RANK_BITS>(line);
                let same = _mm512_cmpeq_epi64_mask(pairs, _mm512_set1_epi64(pair as i64));
                let found = _mm512_castsi512_si128(_mm512_maskz_compress_epi64(same, line));
                let none = u32::from(same == 0).wrapping_neg();
                (_mm_cvtsi128_si64(found) as u64 & RANK) as u32 | none
            }
        }

        #[inline(always)]
        #[allow(unsafe_code, reason = "the value is the proof that the processor has what it needs")]
        fn rare(self, values: &[u64; 64]) -> u64 {
            let mut rare = 0;
            for (i, eight) in values.chunks_exact(8).enumerate() {
                // SAFETY: there is no value of this type on a processor without these instructions; the one that touches memory reads
                // the eight, of 64 bytes.
                let plain = unsafe {
                    let eight = _mm512_loadu_si512(eight.as_ptr().cast());
                    // Plain is what has one of its upper two bits and not the other.
                    _mm512_movepi64_mask(_mm512_xor_si512(eight, _mm512_slli_epi64::<1>(eight)))
                };
                rare |= u64::from(!plain) << (8 * i);
            }
            rare
        }

        #[inline(always)]
        #[allow(unsafe_code, reason = "the value is the proof that the processor has what it needs")]
        fn ids_of_eight(self, values: &[u64; 8], ids: &mut [u32; 16]) -> usize {
            // SAFETY: there is no value of this type on a processor without these instructions; those that touch memory touch the
            // two arrays, of 64 bytes each.
            unsafe {
                let values = _mm512_loadu_si512(values.as_ptr().cast());
                let two = _mm512_movepi64_mask(values);
                // Every first id, in the even lanes, and the second ones of those that have two.
                let wanted = 0x5555 | _pdep_u32(u32::from(two), 0xaaaa) as u16;
                let all = _mm512_and_si512(values, _mm512_set1_epi64(i64::from(SECOND) << 32 | 0xffff_ffff));
                let packed = _mm512_maskz_compress_epi32(wanted, all);
                _mm512_storeu_si512(ids.as_mut_ptr().cast(), packed);
                wanted.count_ones() as usize
            }
        }
    }
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

    fn places(self, bits: u64, base: u32, places: &mut [u32]) -> usize {
        self::places(bits, base, places)
    }

    fn select(self, line: &NamedValues, name: u64) -> u64 {
        let each = line.names.iter().zip(&line.values);
        each.fold(0, |all, (&own, &value)| all | u64::from(own == name).wrapping_neg() & value)
    }

    fn rank(self, line: &Pairs, pair: u64) -> u32 {
        rank(line, pair)
    }

    fn rare(self, values: &[u64; 64]) -> u64 {
        rare(values)
    }

    fn ids_of_eight(self, values: &[u64; 8], ids: &mut [u32; 16]) -> usize {
        ids_of_eight(values, ids)
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
        fn places(&self, bits: u64, base: u32) -> Vec<u32>;
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
