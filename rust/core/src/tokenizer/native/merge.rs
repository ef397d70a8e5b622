//! Byte-pair encoding proper: the lowest-ranked pair of neighbours merges, the leftmost of equals, until none can.

use super::cpu;
use super::tables::{NONE, Tables};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Up to here looking through all pairs for the lowest beats keeping them in a heap.
const FEW: usize = 64;
/// Most pieces have no more symbols.
const FEWEST: usize = 16;

/// A token and the place of its first symbol.
type Placed = (u32, u32);

/// Buffers that outlive a call.
#[derive(Default)]
pub(super) struct Scratch {
    /// The symbols to merge, and what is left of them.
    pub(super) ids: Vec<u32>,
    /// Rank of each symbol's merge with the next.
    ranks: Vec<u32>,
    tokens: Vec<Placed>,
    heap: Heap,
}

/// Merges `scratch.ids`.
pub(super) fn merge(tables: &Tables, scratch: &mut Scratch) {
    let Scratch { ids, ranks, .. } = scratch;
    ranks.clear();
    ranks.extend(ids.windows(2).map(|pair| tables.rank(pair[0], pair[1])));
    settle(tables, scratch);
}

/// The same for the symbols of bytes, whose first ranks stand in a table of their own.
pub(super) fn merge_bytes(tables: &Tables, text: &[u8], scratch: &mut Scratch) {
    let Scratch { ids, ranks, .. } = scratch;
    ids.clear();
    ids.extend(text.iter().map(|&byte| tables.byte_ids[usize::from(byte)]));
    ranks.clear();
    ranks.extend(text.windows(2).map(|pair| tables.byte_pairs[usize::from(pair[0]) << 8 | usize::from(pair[1])]));
    settle(tables, scratch);
}

fn settle(tables: &Tables, scratch: &mut Scratch) {
    let Scratch { ids, ranks, tokens, heap } = scratch;
    if ids.len() < 2 {
        return;
    }
    tokens.clear();
    if ids.len() <= FEW {
        settle_part(tables, ids, ranks, tokens, heap);
    } else {
        settle_in_windows(tables, ids, ranks, tokens, heap);
    }
    ids.clear();
    ids.extend(tokens.iter().map(|&(id, _)| id));
}

/// A long piece by windows of [`FEW`] symbols, so that its length does not matter.
///
/// A sequence of tokens is what merging gives for a text just when each two neighbours are what merging gives for the text of
/// the two: no merge crosses a border before all merges inside both have happened as they do in the two alone. So
/// the tokens of a window stand, but for its last ones, if the first goes with the token before it; if not, that one
/// is taken back, and the window grows.
fn settle_in_windows(tables: &Tables, ids: &[u32], ranks: &[u32], tokens: &mut Vec<Placed>, heap: &mut Heap) {
    let (mut start, mut width) = (0, FEW);
    let (mut window, mut two) = (Vec::with_capacity(FEW), Vec::new());
    while start < ids.len() {
        let end = (start + width).min(ids.len());
        window.clear();
        settle_part(tables, &ids[start..end], &ranks[start..end - 1], &mut window, heap);
        let first_end = window.get(1).map_or(end, |&(_, at)| start + at as usize);
        if let Some(&(last, from)) = tokens.last() {
            let from = from as usize;
            two.clear();
            settle_part(tables, &ids[from..first_end], &ranks[from..first_end - 1], &mut two, heap);
            if two != [(last, 0), (window[0].0, (start - from) as u32)] {
                tokens.pop();
                start = from;
                width *= 2;
                continue;
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
}

/// Merges symbols whose neighbours merge at `ranks`, one fewer.
fn settle_part(tables: &Tables, ids: &[u32], ranks: &[u32], tokens: &mut Vec<Placed>, heap: &mut Heap) {
    let n = ids.len();
    if n <= FEWEST {
        cpu::fastest(Few::<FEWEST> { tables, ids, ranks, tokens });
    } else if n <= FEW {
        cpu::fastest(Few::<FEW> { tables, ids, ranks, tokens });
    } else {
        heap.settle(tables, ids, ranks, tokens);
    }
}

/// At most `N` symbols.
struct Few<'a, const N: usize> {
    tables: &'a Tables,
    ids: &'a [u32],
    ranks: &'a [u32],
    tokens: &'a mut Vec<Placed>,
}

impl<const N: usize> cpu::Work for Few<'_, N> {
    type Done = ();

    /// Symbols stay where they are, and one bit each says whether they are still there. A pair is one number, rank before
    /// place, so that the least of all is the lowest rank and the leftmost of its like.
    #[inline(always)]
    fn run(self, _: impl cpu::Cpu) {
        let Self { tables, ids, ranks, tokens } = self;
        let n = ids.len();
        let pair = |rank: u32, at: usize| if rank == NONE { NONE } else { (rank * N as u32) | at as u32 };
        let mut symbols = [0_u32; N];
        symbols[..n].copy_from_slice(ids);
        let mut pairs = [NONE; N];
        for (at, (slot, &rank)) in pairs.iter_mut().zip(ranks).enumerate() {
            *slot = pair(rank, at);
        }
        let mut alive = u64::MAX >> (64 - n);
        loop {
            let lowest = pairs.iter().fold(NONE, |a, &b| a.min(b));
            if lowest == NONE {
                break;
            }
            let (rank, at) = (lowest / N as u32, lowest as usize % N);
            symbols[at] = tables.merged[rank as usize];
            let behind = alive & (u64::MAX - 1) << at;
            let gone = behind.trailing_zeros() as usize % N;
            pairs[gone] = NONE;
            alive &= !(1 << gone);
            let behind = behind & behind.wrapping_sub(1);
            let before = alive & ((1 << at) - 1);
            // Where nothing stands on a side, the symbol itself is asked for, and the answer not taken.
            let next = if behind == 0 { at } else { behind.trailing_zeros() as usize % N };
            let previous = if before == 0 { at } else { (63 - before.leading_zeros()) as usize % N };
            let merged = symbols[at];
            let (with_next, with_previous) =
                tables.two_ranks((merged, symbols[next]), (symbols[previous], merged));
            if before != 0 {
                pairs[previous] = pair(with_previous, previous);
            }
            pairs[at] = if behind == 0 { NONE } else { pair(with_next, at) };
        }
        while alive != 0 {
            let at = alive.trailing_zeros();
            tokens.push((symbols[at as usize % N], at));
            alive &= alive - 1;
        }
    }
}

/// A heap of pairs and a list of symbols linked both ways: n·log n however many symbols.
#[derive(Default)]
struct Heap {
    ids: Vec<u32>,
    ranks: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    pairs: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Heap {
    fn settle(&mut self, tables: &Tables, symbols: &[u32], first_ranks: &[u32], tokens: &mut Vec<Placed>) {
        let Self { ids, ranks, next, previous, pairs } = self;
        let n = symbols.len() as u32;
        ids.clear();
        ids.extend_from_slice(symbols);
        ranks.clear();
        ranks.extend_from_slice(first_ranks);
        ranks.push(NONE);
        next.clear();
        next.extend(1..=n);
        previous.clear();
        previous.extend((0..n).map(|i| i.wrapping_sub(1)));
        pairs.clear();
        pairs.extend(ranks.iter().zip(0..).filter(|(rank, _)| **rank != NONE).map(|(&rank, at)| Reverse((rank, at))));
        while let Some(Reverse((rank, at))) = pairs.pop() {
            let i = at as usize;
            // Merged away, or paired anew since.
            if ranks[i] != rank {
                continue;
            }
            let gone = next[i] as usize;
            let behind = next[gone];
            ids[i] = tables.merged[rank as usize];
            (ids[gone], ranks[gone]) = (NONE, NONE);
            next[i] = behind;
            ranks[i] = NONE;
            let with_next = (behind < n).then_some((at, behind));
            let with_previous = (at > 0).then(|| (previous[i], at));
            if behind < n {
                previous[behind as usize] = at;
            }
            for (left, right) in with_next.into_iter().chain(with_previous) {
                let rank = tables.rank(ids[left as usize], ids[right as usize]);
                ranks[left as usize] = rank;
                if rank != NONE {
                    pairs.push(Reverse((rank, left)));
                }
            }
        }
        tokens.extend(ids.iter().zip(0..).filter(|(id, _)| **id != NONE).map(|(&id, at)| (id, at)));
    }
}
