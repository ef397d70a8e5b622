//! Where an object or an array ends, found 64 bytes at a time.
//!
//! A block becomes masks of one bit per byte: quotes, backslashes, brackets. Each quote that is not escaped begins or ends a
//! string, so the parity of the quotes before a byte says whether it lies in one; brackets elsewhere are counted.

const BLOCK: usize = 64;
/// The weight of each byte's bit in the byte of a mask that it goes to. Of all 64, not of eight: compilers weigh whole
/// vectors only so.
const WEIGHTS: [u8; BLOCK] = {
    let mut weights = [0; BLOCK];
    let mut i = 0;
    while i < BLOCK {
        weights[i] = 1 << (i % 8);
        i += 1;
    }
    weights
};

/// How far inside one object or array a reader is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Nesting {
    depth: u32,
    in_string: bool,
    /// The next byte is escaped by a backslash.
    escaped: bool,
}

impl Nesting {
    /// Goes on through `bytes`: how far, and whether the closing bracket stands right before there. Less than a block is
    /// left for the next time, if there is one.
    pub(super) fn follow(&mut self, bytes: &[u8], at_end: bool) -> (usize, bool) {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        for (i, block) in blocks.iter().enumerate() {
            if let Some(end) = self.close(block) {
                return (i * BLOCK + end, true);
            }
        }
        let passed = blocks.len() * BLOCK;
        if !at_end {
            return (passed, false);
        }
        let mut last = [b' '; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        match self.close(&last) {
            Some(end) => (passed + end, true),
            None => (bytes.len(), false),
        }
    }

    /// One past the closing bracket, if it is in this block.
    fn close(&mut self, block: &[u8; BLOCK]) -> Option<usize> {
        let mut quotes = mask(block, |byte| byte == b'"');
        let backslashes = mask(block, |byte| byte == b'\\');
        if backslashes != 0 || self.escaped {
            quotes &= !self.escaped_by(backslashes);
        }
        let mut inside = quotes;
        for shift in [1, 2, 4, 8, 16, 32] {
            inside ^= inside << shift;
        }
        if self.in_string {
            inside = !inside;
        }
        self.in_string = inside >> (BLOCK - 1) == 1;
        let mut brackets = mask(block, may_be_bracket) & !inside;
        while brackets != 0 {
            let at = brackets.trailing_zeros() as usize;
            match block[at] {
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
            brackets &= brackets - 1;
        }
        None
    }

    /// The bytes after those backslashes that are not escaped themselves.
    fn escaped_by(&mut self, backslashes: u64) -> u64 {
        let mut escaped = u64::from(self.escaped);
        let mut left = backslashes & !escaped;
        while left != 0 {
            let behind = (left & left.wrapping_neg()) << 1;
            escaped |= behind;
            left &= (left - 1) & !behind;
            if behind == 0 {
                self.escaped = true;
                return escaped;
            }
        }
        self.escaped = false;
        escaped
    }
}

/// All brackets have these bits in common; `Y`, `y`, `_` and DEL have them too, which a second look tells apart.
fn may_be_bracket(byte: u8) -> bool {
    byte | 0x26 == 0x7f
}

/// A bit for each byte that is meant. In two steps, so that the compiler compares whole vectors: each such byte gets
/// the weight of its bit, and a product adds up the eight weights of a word in its highest byte.
fn mask(block: &[u8; BLOCK], is_meant: impl Fn(u8) -> bool) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let mut weights = [0; BLOCK];
    for (i, &byte) in block.iter().enumerate() {
        weights[i] = if is_meant(byte) { WEIGHTS[i] } else { 0 };
    }
    let words = weights.as_chunks::<8>().0.iter().enumerate();
    words.fold(0, |mask, (i, &word)| mask | (u64::from_le_bytes(word).wrapping_mul(ONES) >> 56) << (8 * i))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same, byte by byte.
    fn naive(bytes: &[u8]) -> Option<usize> {
        let (mut depth, mut in_string, mut escaped) = (0, false, false);
        for (i, byte) in bytes.iter().enumerate() {
            match byte {
                b'"' if !escaped => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth -= 1,
                _ => {}
            }
            escaped = *byte == b'\\' && !escaped;
            if depth == 0 {
                return Some(i + 1);
            }
        }
        None
    }

    fn byte() -> impl Strategy<Value = u8> {
        prop_oneof![
            4 => any::<u8>(),
            1 => Just(b'{'),
            1 => prop_oneof![Just(b'['), Just(b']'), Just(b'}')],
            2 => Just(b'"'),
            2 => Just(b'\\'),
            1 => prop_oneof![Just(b'Y'), Just(b'y'), Just(b'_'), Just(0x7f)],
        ]
    }

    proptest! {
        #[test]
        fn any_bytes_end_where_they_end_byte_by_byte(
            bytes in proptest::collection::vec(byte(), 0..400),
            steps in proptest::collection::vec(0_usize..200, 0..6),
        ) {
            let text = [&b"{"[..], &bytes].concat();
            let (mut nesting, mut scanned, mut there) = (Nesting::default(), 0, 0);
            let mut closed = false;
            for (i, step) in steps.iter().chain([&text.len()]).enumerate() {
                there = text.len().min(there + step).max(scanned);
                let (passed, found) = nesting.follow(&text[scanned..there], i == steps.len());
                scanned += passed;
                closed = found;
                if closed {
                    break;
                }
            }
            prop_assert_eq!(closed.then_some(scanned), naive(&text));
        }
    }
}
