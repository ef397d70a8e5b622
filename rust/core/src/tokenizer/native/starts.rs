//! Where the pieces of plain ASCII begin, in sixty-four bytes at once.
//!
//! Walking from piece to piece costs the processor a mispredicted branch at every other one, since whether a word, a
//! digit or a comma comes next cannot be predicted. Here every rule of the split patterns is a handful of operations on masks with one bit a
//! byte, whatever the text. What they leave open (a line of blanks between line breaks, a run beyond the block) is
//! said to be open, and the scanner looks at it one by one.

use super::cpu::{BYTES, Block};
use super::rules::Rules;

/// Towards the end of a block it cannot tell where pieces begin: the longest contraction has two letters.
const MARGIN: u32 = 4;

/// The pieces that begin in a block which itself begins with one, as one bit a byte: those behind the first, up to where the
/// block can tell, and the end of the text as if one began there. `contraction` says where one ends whose apostrophe
/// stands at a place of the block, if there is one.
#[inline(always)]
pub(super) fn starts<R: Rules>(block: &Block, contraction: impl Fn(usize) -> Option<usize>) -> u64 {
    let Block { letters, digits, blanks, controls, line_breaks, apostrophes, wide, others, inside } = *block;
    if R::CASED || wide != 0 {
        return 0;
    }
    let spaces = blanks | controls;
    let line_breaks = if R::LINE_BREAKS { line_breaks } else { 0 };
    let gaps = spaces & !line_breaks;

    // ` ?[^\s\p{L}\p{N}]+[\r\n]*`
    let others_first = others & !(others << 1);
    let others_blank = blanks & others >> 1;
    let breaks_taken = run_from(others << 1 & line_breaks, line_breaks);
    // One other character on its own, which no blank before it has taken.
    let single = others_first & !(others >> 1) & !(others_blank << 1);

    // `[^\r\n\p{L}\p{N}]?\p{L}+`, or ` ?\p{L}+`
    let leads = (if R::ANY_LEAD { gaps | single } else { blanks }) & letters >> 1;
    let words = leads | (letters & !(letters << 1) & !(leads << 1));

    // `\s*[\r\n]+|\s+(?!\S)|\s+`: the last character before what is no white space is left to it.
    let gaps_after_break = gaps & line_breaks << 1;
    let behind = if R::DIGITS_APART { !spaces & !digits & inside } else { !spaces & inside };
    let white = (spaces & !(spaces << 1) & !breaks_taken) | gaps_after_break | (gaps & behind >> 1);
    if run_end(gaps_after_break, gaps) & line_breaks != 0 {
        // White space reaches on to a later line break.
        return 0;
    }

    let mut starts =
        words | others_blank | (others_first & !(others_blank << 1)) | numbers::<R>(digits, blanks) | white;
    let whole = inside == u64::MAX;
    // Behind the last places of a whole block nothing is told anyway.
    let mut apostrophes = apostrophes & single & letters >> 1 & if whole { u64::MAX >> MARGIN } else { u64::MAX };
    while apostrophes != 0 {
        let at = apostrophes.trailing_zeros() as usize;
        apostrophes &= apostrophes - 1;
        if let Some(end) = contraction(at) {
            starts &= !(2 << at);
            starts |= letters & 1 << end;
        }
    }

    let told = if whole {
        let trailing = spaces.leading_ones().max(MARGIN);
        // Of white space that goes on behind the block only the beginning is sure.
        if trailing as usize >= BYTES { 0 } else { u64::MAX >> (trailing - 1) }
    } else {
        starts |= inside + 1;
        inside << 1
    };
    starts & told & !1
}

/// `\p{N}`, `\p{N}{1,3}` or ` ?\p{N}+`.
#[inline(always)]
fn numbers<R: Rules>(digits: u64, blanks: u64) -> u64 {
    if R::DIGITS == 1 {
        return digits;
    }
    let first = digits & !(digits << 1);
    if R::DIGITS == usize::MAX {
        if R::DIGITS_APART {
            return digits;
        }
        let blank = blanks & digits >> 1;
        return blank | (first & !(blank << 1));
    }
    let whole = digits & digits << 1 & digits << 2 & digits << 3;
    let mut starts = first;
    loop {
        let more = starts | (starts << 3 & whole);
        if more == starts {
            return starts;
        }
        starts = more;
    }
}

/// The whole runs that have one of `seeds`, which are first bits of runs: adding one clears its run, and carries to behind it.
#[inline(always)]
fn run_from(seeds: u64, runs: u64) -> u64 {
    runs & !runs.wrapping_add(seeds)
}

/// The bits behind the runs that have one of `seeds`.
#[inline(always)]
fn run_end(seeds: u64, runs: u64) -> u64 {
    runs.wrapping_add(seeds) & !runs
}
