//! DeepSeek-V3's pieces: those of plain ASCII sixty-four bytes at a time, the others step by step.

use super::cache::{Cuts, TOGETHER};
use super::cpu::{self, Block, Cpu};
use super::deepseek::DeepSeek;
use super::rules::DeepSeekV3;
use super::scan::Filled;
use super::starts::starts;
use super::steps::Cutter;

/// A text under the pattern.
pub(super) struct Scanner<'t> {
    text: &'t [u8],
    cutter: Cutter<'t>,
}

impl<'t> Scanner<'t> {
    /// `text` must be UTF-8.
    pub(super) fn new(text: &'t [u8]) -> Self {
        Self { text, cutter: Cutter::new(text, DeepSeek::V3.steps()) }
    }

    /// Finds the pieces from `at` on, up to [`TOGETHER`] of them.
    pub(super) fn fill(&mut self, at: usize, cuts: &mut Cuts) -> Filled {
        cpu::fastest(Fill { scanner: self, at, cuts })
    }
}

struct Fill<'f, 't> {
    scanner: &'f mut Scanner<'t>,
    at: usize,
    cuts: &'f mut Cuts,
}

impl cpu::Work for Fill<'_, '_> {
    type Done = Filled;

    #[inline(always)]
    fn run(self, cpu: impl Cpu) -> Filled {
        let Self { scanner: Scanner { text, cutter }, mut at, cuts } = self;
        let [start, ends @ ..] = cuts;
        *start = at as u32;
        let (mut n, mut ascii) = (0, true);
        while n < TOGETHER && at < text.len() {
            let base = at;
            let block = Block::of(cpu, text, base);
            let starts = if unprintable(text, base) { 0 } else { starts::<DeepSeekV3>(&block, |_| None) };
            if starts != 0 {
                n += cpu.places(starts, base as u32, &mut ends[n..]);
                at = base + starts.ilog2() as usize;
                continue;
            }
            ascii = false;
            // Towards the end of the block words would seldom be whole: a new one begins there.
            while n < TOGETHER && at < text.len() && at - base < cpu::BYTES - 12 {
                at = cutter.end(at);
                ends[n] = at as u32;
                n += 1;
                if block.wide == 0 {
                    break;
                }
            }
        }
        // Those of the last block that are too many are found again.
        Filled { n: n.min(TOGETHER), ascii }
    }
}

/// Whether the block at `at` has ASCII that is no character to be seen and no white space: neither sign nor letter.
#[inline(always)]
fn unprintable(text: &[u8], at: usize) -> bool {
    let block = &text[at..text.len().min(at + cpu::BYTES)];
    block.iter().fold(false, |found, &byte| found | (byte < b'\t') | (byte.wrapping_sub(0xe) < 0x12) | (byte == 0x7f))
}

#[cfg(test)]
mod tests {
    use super::super::cache::Batch;
    use super::*;

    /// What the masks say is what the steps say, wherever in a block a piece begins and the text ends.
    #[test]
    fn blocks_agree_with_steps() {
        const PARTS: &[&str] = &[
            "a", "B", "s", "'", "'s", "'x", "''", "!", "$=", " ", " ", "  ", "\n", "\r\n", " \n", "\t", "1", "23",
            "4567", "word", "\u{b}", "\0", "\u{7f}", "é", "，", "中文", "カ・", "\u{301}",
        ];
        let mut state = 1_u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) as usize % n
        };
        let mut batch = Batch::default();
        for round in 0..60_000 {
            // Most are ASCII to be seen: elsewhere the masks have no say.
            let kinds = if round % 4 == 0 { PARTS.len() } else { PARTS.len() - 7 };
            let text: String = (0..1 + below(90)).map(|_| PARTS[below(kinds)]).collect();
            let mut scanner = Scanner::new(text.as_bytes());
            let (mut at, mut found) = (0, Vec::new());
            while at < text.len() {
                let n = scanner.fill(at, &mut batch.cuts).n;
                assert_eq!(batch.cuts[0], at as u32);
                found.extend(batch.cuts[1..=n].iter().map(|&end| end as usize));
                at = batch.cuts[n] as usize;
            }
            let mut cutter = Cutter::new(text.as_bytes(), DeepSeek::V3.steps());
            let (mut at, mut expected) = (0, Vec::new());
            while at < text.len() {
                at = cutter.end(at);
                expected.push(at);
            }
            assert_eq!(found, expected, "{text:?}");
        }
    }
}
