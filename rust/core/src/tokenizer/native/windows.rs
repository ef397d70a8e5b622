//! Long words: merged in windows of a few symbols, so that the time is linear in their length.
//!
//! A sequence of tokens is what merging gives for a text just when each two neighbours are what merging gives for the text of the
//! two: no merge crosses a border before all merges inside both have happened as they do in the two alone. So two
//! windows may be joined at any token that both have: what stands before it in the one and behind it in the other is right, since
//! each two neighbours stand side by side in one of them.
//!
//! A merge must wait for the one before it, and mostly for memory. Therefore four windows that overlap are merged in turns.

use super::cpu::{self, Cpu};
use super::settle::{FEW, Heap, Placed, Window, settle_part};
use super::tables::Tables;

/// Windows that take turns.
const TURNS: usize = 4;
/// Symbols that a window has in common with the next. What is cut at its end seldom reaches further back.
const OVERLAP: usize = 20;
/// From one window to the next.
const STRIDE: usize = FEW - OVERLAP;
/// Tokens that the first window has in common with what was merged before.
const TOKENS: usize = 4;
/// The most symbols to do without turns after windows that could not be joined.
const ALONE: usize = 64 * FEW;

/// Symbols, and at which rank each merges with the next.
pub(super) struct Text<'t> {
    pub(super) tables: &'t Tables,
    pub(super) ids: &'t [u32],
    pub(super) ranks: &'t [u32],
}

/// Appends the tokens of a text of two symbols or more to none.
pub(super) fn settle(text: &Text<'_>, tokens: &mut Vec<Placed>, heap: &mut Heap) {
    let mut found: [Vec<Placed>; TURNS] = Default::default();
    // The tokens are those of the symbols up to `end`.
    let mut end = 0;
    // Some windows cannot be joined by accident; a text of one letter never has any that can.
    let mut pause = FEW;
    while end < text.ids.len() {
        let begin = tokens.len().checked_sub(TOKENS).map_or(0, |first| tokens[first].1 as usize);
        let fits = begin + (TURNS - 1) * STRIDE + FEW <= text.ids.len();
        if fits && end - begin <= FEW / 2 {
            cpu::fastest(Turns { text, begin, found: &mut found });
            let joined = found.iter().take_while(|window| join(tokens, window)).count();
            if joined > 0 {
                end = begin + (joined - 1) * STRIDE + FEW;
            }
            if joined == TURNS {
                pause = FEW;
                continue;
            }
        }
        let goal = if fits { text.ids.len().min(end + pause) } else { text.ids.len() };
        pause = ALONE.min(2 * pause);
        end = settle_alone(text, end, goal, tokens, heap);
    }
}

/// Goes over from `tokens` to those of a window at the last token that both have. If they have none, nothing is changed.
fn join(tokens: &mut Vec<Placed>, window: &[Placed]) -> bool {
    if tokens.is_empty() {
        tokens.extend_from_slice(window);
        return true;
    }
    let common =
        tokens.iter().enumerate().rev().take_while(|&(_, &(_, at))| at >= window[0].1).find_map(|(i, token)| {
            let found = window.binary_search_by_key(&token.1, |&(_, at)| at).ok()?;
            (window[found] == *token).then_some((i, found))
        });
    if let Some((i, found)) = common {
        tokens.truncate(i);
        tokens.extend_from_slice(&window[found..]);
    }
    common.is_some()
}

/// Windows from `begin` on, merged in turns.
struct Turns<'a> {
    text: &'a Text<'a>,
    begin: usize,
    found: &'a mut [Vec<Placed>; TURNS],
}

impl cpu::Work for Turns<'_> {
    type Done = ();

    #[inline(always)]
    fn run(self, cpu: impl Cpu) {
        let Self { text, begin, found } = self;
        let start = |turn: usize| begin + turn * STRIDE;
        let mut windows: [Window<FEW>; TURNS] = std::array::from_fn(|turn| {
            let (from, to) = (start(turn), start(turn) + FEW);
            Window::of(&text.ids[from..to], &text.ranks[from..to - 1])
        });
        let mut more = true;
        while more {
            more = false;
            for window in &mut windows {
                more |= window.step(cpu, text.tables);
            }
        }
        for (turn, (window, found)) in windows.iter().zip(found).enumerate() {
            found.clear();
            window.tokens(start(turn) as u32, found);
        }
    }
}

/// Continues after `start`, where `tokens` end, to `goal` or somewhat further, one window after another; returns the end.
///
/// The tokens of a window stand, but for its last ones, if the first goes with the token before it; if not, that one is taken
/// back, and the window grows. Text that cannot be joined is mostly one that repeats itself, so a window that reads as the one before
/// it is not merged again, nor are two tokens that were seen to go together.
fn settle_alone(text: &Text<'_>, mut start: usize, goal: usize, tokens: &mut Vec<Placed>, heap: &mut Heap) -> usize {
    let Text { tables, ids, ranks } = *text;
    let mut width = FEW;
    let (mut window, mut two) = (Vec::with_capacity(FEW), Vec::new());
    let (mut merged, mut together) = (0..0, None);
    while start < goal {
        let end = (start + width).min(ids.len());
        if ids[merged.clone()] != ids[start..end] {
            window.clear();
            settle_part(tables, &ids[start..end], &ranks[start..end - 1], &mut window, heap);
            merged = start..end;
        }
        if let Some(&(last, from)) = tokens.last() {
            let pair = (last, window[0].0);
            if together != Some(pair) {
                let first_end = window.get(1).map_or(end, |&(_, at)| start + at as usize);
                let from = from as usize;
                two.clear();
                settle_part(tables, &ids[from..first_end], &ranks[from..first_end - 1], &mut two, heap);
                if two != [(pair.0, 0), (pair.1, (start - from) as u32)] {
                    tokens.pop();
                    start = from;
                    width *= 2;
                    continue;
                }
                together = Some(pair);
            }
        }
        // What lies in the last quarter may still change, unless nothing follows.
        let certain = if end == ids.len() {
            window.len()
        } else {
            window.partition_point(|&(_, at)| (at as usize) <= width * 3 / 4) - 1
        };
        if certain == 0 {
            width *= 2;
            continue;
        }
        tokens.extend(window[..certain].iter().map(|&(id, at)| (id, at + start as u32)));
        start = window.get(certain).map_or(end, |&(_, at)| start + at as usize);
        width = FEW;
    }
    start
}
