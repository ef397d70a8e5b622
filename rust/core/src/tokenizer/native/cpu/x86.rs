//! The processors of the x86-64 family: what all of them have, and AVX-512.

use super::super::line::{Pairs, RANK, RANK_BITS};
use super::kernels::{BRIEF, BYTES, Block, Cpu, EIGHT, Name, NamedValues, SECOND, SPREAD};
use std::arch::x86_64::{
    __m128i, __m512i, _mm_and_si128, _mm_cmpeq_epi8, _mm_cmpeq_epi32, _mm_cmpgt_epi8, _mm_cvtsi64_si128,
    _mm_cvtsi128_si64, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8, _mm_set1_epi64x,
    _mm_shuffle_epi32, _mm_unpackhi_epi64, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_sub_epi32, _mm512_add_epi32,
    _mm512_and_si512, _mm512_andnot_si512, _mm512_castsi512_si128, _mm512_cmpeq_epi8_mask, _mm512_cmpeq_epi64_mask,
    _mm512_cmpeq_epu64_mask, _mm512_cmpgt_epu64_mask, _mm512_cmple_epi64_mask, _mm512_cmplt_epu8_mask,
    _mm512_cvtepi64_epi32, _mm512_cvtepu32_epi64, _mm512_loadu_si512, _mm512_maskz_compress_epi32,
    _mm512_maskz_compress_epi64, _mm512_maskz_loadu_epi8, _mm512_movepi8_mask, _mm512_movepi64_mask,
    _mm512_mullo_epi64, _mm512_or_si512, _mm512_set_epi32, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_epi64,
    _mm512_slli_epi64, _mm512_sllv_epi64, _mm512_srl_epi64, _mm512_srli_epi64, _mm512_storeu_si512, _mm512_sub_epi8,
    _mm512_xor_si512, _pdep_u32,
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

/// The classes of a block's bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn classes(x: __m512i) -> Block {
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

impl Cpu for Avx512 {
    #[inline(always)]
    #[allow(unsafe_code, reason = "the value is the proof that the processor has what it needs")]
    fn classify(self, bytes: &[u8; BYTES]) -> Block {
        // SAFETY: there is no value of this type on a processor without these instructions; the one that reads memory reads
        // the block.
        unsafe { classes(_mm512_loadu_si512(bytes.as_ptr().cast())) }
    }

    #[inline(always)]
    #[allow(unsafe_code, reason = "the value is the proof that the processor has what it needs")]
    fn classify_rest(self, rest: &[u8]) -> Block {
        let inside = (1_u64 << rest.len()) - 1;
        // SAFETY: there is no value of this type on a processor without these instructions; the one that reads memory reads
        // the bytes of the mask, which are those of the slice, and no others.
        unsafe { classes(_mm512_maskz_loadu_epi8(inside, rest.as_ptr().cast())) }
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
    fn names_of_eight(
        self,
        cuts: &[u32; 9],
        apart: u64,
        power: u32,
        names: &mut [Name; 8],
        places: &mut [u32; 8],
    ) -> u8 {
        // SAFETY: there is no value of this type on a processor without these instructions; those that touch memory touch eight
        // of the nine cuts, and the two arrays of eight.
        unsafe {
            let words = _mm512_loadu_si512(names.as_ptr().cast());
            let from = _mm256_loadu_si256(cuts.as_ptr().cast());
            let to = _mm256_loadu_si256(cuts[1..].as_ptr().cast());
            let lengths = _mm512_cvtepu32_epi64(_mm256_sub_epi32(to, from));
            let beyond = _mm512_sllv_epi64(_mm512_set1_epi64(-1), _mm512_slli_epi64::<3>(lengths));
            let bytes = _mm512_andnot_si512(beyond, words);
            let eight = _mm512_set1_epi64(BRIEF as i64);
            let number = _mm512_slli_epi64::<56>(_mm512_andnot_si512(eight, lengths));
            let marks = _mm512_or_si512(number, _mm512_set1_epi64(apart as i64));
            let all = _mm512_or_si512(bytes, marks);
            let spread = _mm512_mullo_epi64(all, _mm512_set1_epi64(SPREAD as i64));
            let found = _mm512_srl_epi64(spread, _mm_cvtsi64_si128(i64::from(64 - power)));
            _mm512_storeu_si512(names.as_mut_ptr().cast(), all);
            _mm256_storeu_si256(places.as_mut_ptr().cast(), _mm512_cvtepi64_epi32(found));
            let low = _mm512_cmple_epi64_mask(words, _mm512_set1_epi64(EIGHT));
            _mm512_cmpgt_epu64_mask(lengths, eight) | (_mm512_cmpeq_epu64_mask(lengths, eight) & low)
        }
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
    fn rare_of_eight(self, values: &[u64; 8]) -> u8 {
        // SAFETY: there is no value of this type on a processor without these instructions; the one that touches memory reads
        // the eight, of 64 bytes.
        unsafe {
            let values = _mm512_loadu_si512(values.as_ptr().cast());
            // Plain is what has one of its upper two bits and not the other.
            !_mm512_movepi64_mask(_mm512_xor_si512(values, _mm512_slli_epi64::<1>(values)))
        }
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
