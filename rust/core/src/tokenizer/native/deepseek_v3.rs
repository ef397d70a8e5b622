//! DeepSeek-V3's pieces: those of plain ASCII sixty-four bytes at a time, the others step by step.

use super::cpu::{self, Block};
use super::deepseek::DeepSeek;
use super::fill::Pieces;
use super::rules::DeepSeekV3;
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
}

impl Pieces for Scanner<'_> {
    type Masks = ();

    const HAS_STARTS: bool = true;

    #[inline(always)]
    fn text(&self) -> &[u8] {
        self.text
    }

    #[inline(always)]
    fn starts(&self, block: &Block, base: usize) -> u64 {
        if unprintable(self.text, base) { 0 } else { starts::<DeepSeekV3>(block, |_| None) }
    }

    #[inline(always)]
    fn masks(&self, _: &Block) {}

    fn end(&mut self, (): &(), _: usize, at: usize) -> usize {
        self.cutter.end(at)
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
    use super::super::fill::tests::{Texts, ends_of, single_ends};
    use super::*;

    /// The masks give the same pieces as the steps, wherever in a block a piece begins and the text ends.
    #[test]
    fn blocks_agree_with_steps() {
        const PARTS: &[&str] = &[
            "a", "B", "s", "'", "'s", "'x", "''", "!", "$=", " ", " ", "  ", "\n", "\r\n", " \n", "\t", "1", "23",
            "4567", "word", "\u{b}", "\0", "\u{7f}", "é", "，", "中文", "カ・", "\u{301}",
        ];
        let mut texts = Texts::default();
        for round in 0..60_000 {
            // Most are ASCII to be seen: elsewhere the masks have no say.
            let kinds = if round % 4 == 0 { PARTS.len() } else { PARTS.len() - 7 };
            let text = texts.next(&PARTS[..kinds]);
            let mut cutter = Cutter::new(text.as_bytes(), DeepSeek::V3.steps());
            let expected = single_ends(&text, |at| cutter.end(at));
            assert_eq!(ends_of(Scanner::new(text.as_bytes())), expected, "{text:?}");
        }
    }
}
