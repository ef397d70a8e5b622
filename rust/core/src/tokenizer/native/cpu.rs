//! Sixty-four bytes at once, as one bit a byte and class: what the scanner reads the ends of words from.
//!
//! This is the one module of the core with unsafe code: three calls of functions that need certain instructions, on
//! processors that have them.

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
}

impl Block {
    /// The block that begins at `at`.
    #[inline(always)]
    pub(super) fn of(text: &[u8], at: usize) -> Self {
        match text.get(at..at + BYTES).and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => classify(bytes, u64::MAX),
            None => Self::last(text, at),
        }
    }

    #[inline(never)]
    fn last(text: &[u8], at: usize) -> Self {
        let rest = text.get(at..).unwrap_or_default();
        let mut bytes = [0; BYTES];
        bytes[..rest.len()].copy_from_slice(rest);
        classify(&bytes, (1 << rest.len()) - 1)
    }
}

/// Something to do for [`fastest`]. `run` must be `inline(always)`, and so must what it calls, or it is not compiled anew; which is why it
/// is not a closure.
pub(super) trait Work {
    fn run(self);
}

/// Runs `work` compiled for AVX2 and BMI where the processor has them: finding the next set bit is several times dearer without.
#[inline(always)]
#[allow(unsafe_code, reason = "the processor is asked first")]
pub(super) fn fastest(work: impl Work) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
        fn with_avx2(work: impl Work) {
            work.run();
        }
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        if has {
            // SAFETY: the processor has just said that it has all of them.
            return unsafe { with_avx2(work) };
        }
    }
    work.run();
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
#[inline(always)]
#[allow(unsafe_code, reason = "a target feature that every processor of the architecture has")]
fn classify(bytes: &[u8; BYTES], valid: u64) -> Block {
    // SAFETY: SSE2 is part of x86-64 itself.
    finish(unsafe { with_sse2(bytes) }, valid)
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn with_sse2(bytes: &[u8; BYTES]) -> Block {
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_cmpeq_epi8, _mm_cmpgt_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x,
        _mm_set1_epi8,
    };
    let between = |x: __m128i, low: u8, high: u8| {
        _mm_and_si128(_mm_cmpgt_epi8(x, _mm_set1_epi8(low as i8 - 1)), _mm_cmpgt_epi8(_mm_set1_epi8(high as i8 + 1), x))
    };
    let is = |x: __m128i, byte: u8| _mm_cmpeq_epi8(x, _mm_set1_epi8(byte as i8));
    let mut block = Block::default();
    for part in 0..BYTES / 16 {
        let word = |i: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[part * 16 + i..part * 16 + i + 8]);
            i64::from_le_bytes(eight)
        };
        let x = _mm_set_epi64x(word(8), word(0));
        let mask = |x: __m128i| u64::from(_mm_movemask_epi8(x) as u32) << (part * 16);
        block.letters |= mask(between(_mm_or_si128(x, _mm_set1_epi8(0x20)), b'a', b'z'));
        block.digits |= mask(between(x, b'0', b'9'));
        block.blanks |= mask(is(x, b' '));
        block.controls |= mask(between(x, b'\t', b'\r'));
        block.line_breaks |= mask(_mm_or_si128(is(x, b'\n'), is(x, b'\r')));
        block.apostrophes |= mask(is(x, b'\''));
        block.wide |= mask(x);
    }
    block
}

#[cfg(not(target_arch = "x86_64"))]
fn classify(bytes: &[u8; BYTES], valid: u64) -> Block {
    finish(byte_by_byte(bytes), valid)
}

#[inline(always)]
fn finish(mut block: Block, valid: u64) -> Block {
    let known = block.letters | block.digits | block.blanks | block.controls | block.wide;
    block.others = !known & valid;
    block
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn byte_by_byte(bytes: &[u8; BYTES]) -> Block {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_class_at_every_place() {
        for first in 0..=255_u8 {
            let bytes = std::array::from_fn(|i| first.wrapping_add((i as u8).wrapping_mul(37)));
            assert_eq!(classify(&bytes, u64::MAX), finish(byte_by_byte(&bytes), u64::MAX));
        }
    }

    #[test]
    fn nothing_stands_behind_the_end() {
        let block = Block::of(b"a!", 0);
        assert_eq!((block.letters, block.others), (0b01, 0b10));
    }
}
