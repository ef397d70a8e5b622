//! From a text to batches of pieces: by masks of sixty-four bytes where those decide, one by one elsewhere.

use super::cache::{Cuts, TOGETHER};
use super::cpu::{self, Block, Cpu};

/// A split pattern over a text.
pub(super) trait Pieces {
    /// Masks to find the ends of single pieces.
    type Masks;

    /// The text. It must be UTF-8.
    fn text(&self) -> &[u8];

    /// The pieces that begin in a block which begins with one, at `base`, as [`super::starts::starts`] says it; 0 if the block cannot tell.
    fn starts(&self, block: &Block, base: usize) -> u64;

    fn masks(&self, block: &Block) -> Self::Masks;

    /// The end of the piece at `at`, in or behind the block at `base`.
    fn end(&mut self, masks: &Self::Masks, base: usize, at: usize) -> usize;

    /// Whether blocks of ASCII tell anything at all: after one piece of what they do not, a new block is tried.
    const HAS_STARTS: bool;
}

/// What was found.
pub(super) struct Filled {
    /// Pieces.
    pub(super) n: usize,
    /// Whether all of them are known to be ASCII.
    pub(super) ascii: bool,
}

/// Finds the pieces from a place on, up to [`TOGETHER`] of them, block by block.
pub(super) fn by_blocks(mut pieces: impl Pieces) -> impl FnMut(usize, &mut Cuts) -> Filled {
    move |at, cuts| cpu::fastest(Blocks { pieces: &mut pieces, at, cuts })
}

struct Blocks<'f, P> {
    pieces: &'f mut P,
    at: usize,
    cuts: &'f mut Cuts,
}

impl<P: Pieces> cpu::Work for Blocks<'_, P> {
    type Done = Filled;

    #[inline(always)]
    fn run(self, cpu: impl Cpu) -> Filled {
        let Self { pieces, mut at, cuts } = self;
        let length = pieces.text().len();
        let [start, ends @ ..] = cuts;
        *start = at as u32;
        let (mut n, mut ascii) = (0, true);
        while n < TOGETHER && at < length {
            let base = at;
            let block = Block::of(cpu, pieces.text(), base);
            let starts = pieces.starts(&block, base);
            if starts != 0 {
                n += cpu.places(starts, base as u32, &mut ends[n..]);
                // Not read from `ends`: the next block would wait until it is written.
                at = base + starts.ilog2() as usize;
                continue;
            }
            ascii = false;
            let masks = pieces.masks(&block);
            // Towards the end of the block words would seldom be whole: a new one begins there.
            while n < TOGETHER && at < length && at - base < cpu::BYTES - 12 {
                at = pieces.end(&masks, base, at);
                ends[n] = at as u32;
                n += 1;
                if P::HAS_STARTS && block.wide == 0 {
                    break;
                }
            }
        }
        // Those of the last block that are too many are found again.
        Filled { n: n.min(TOGETHER), ascii }
    }
}

/// The same for a pattern that only goes from the end of one piece to the end of the next.
pub(super) fn one_by_one(text: &[u8], mut end: impl FnMut(usize) -> usize) -> impl FnMut(usize, &mut Cuts) -> Filled {
    move |mut at, cuts| {
        let mut n = 0;
        cuts[0] = at as u32;
        while n < TOGETHER && at < text.len() {
            at = end(at);
            n += 1;
            cuts[n] = at as u32;
        }
        Filled { n, ascii: false }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::cache::Batch;
    use super::*;

    /// Texts glued together from parts by a generator of random numbers.
    pub(in super::super) struct Texts(u64);

    impl Default for Texts {
        fn default() -> Self {
            Self(1)
        }
    }

    impl Texts {
        pub(in super::super) fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (self.0 >> 33) as usize % n
        }

        pub(in super::super) fn next(&mut self, parts: &[&str]) -> String {
            (0..1 + self.below(90)).map(|_| parts[self.below(parts.len())]).collect()
        }
    }

    /// The ends of all pieces, batch by batch.
    pub(in super::super) fn ends_of(pieces: impl Pieces) -> Vec<usize> {
        let mut batch = Batch::default();
        let (length, mut fill) = (pieces.text().len(), by_blocks(pieces));
        let (mut at, mut found) = (0, Vec::new());
        while at < length {
            let n = fill(at, &mut batch.cuts).n;
            assert_eq!(batch.cuts[0], at as u32);
            found.extend(batch.cuts[1..=n].iter().map(|&end| end as usize));
            at = batch.cuts[n] as usize;
        }
        found
    }

    /// The ends of all pieces, one by one.
    pub(in super::super) fn single_ends(text: &str, mut end: impl FnMut(usize) -> usize) -> Vec<usize> {
        let mut ends = Vec::new();
        while ends.last().copied().unwrap_or(0) < text.len() {
            ends.push(end(ends.last().copied().unwrap_or(0)));
        }
        ends
    }
}
