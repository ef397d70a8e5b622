//! Byte-pair encoding proper: the lowest-ranked pair of neighbours merges, the leftmost of equals, until none can.

use super::cpu;
use super::tables::{NONE, Tables};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Up to here looking through all pairs for the lowest beats keeping them in a heap.
const FEW: usize = 64;
/// Most pieces have no more symbols.
const FEWEST: usize = 16;

/// Buffers that outlive a call.
#[derive(Default)]
pub(super) struct Scratch {
    /// The symbols to merge, and what is left of them.
    pub(super) ids: Vec<u32>,
    /// Rank of each symbol's merge with the next.
    ranks: Vec<u32>,
    /// The symbols behind and before each, for long pieces.
    next: Vec<u32>,
    previous: Vec<u32>,
    heap: BinaryHeap<Reverse<(u32, u32)>>,
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
    let n = scratch.ids.len();
    match n {
        0 | 1 => {}
        2..=FEWEST => cpu::fastest(Few::<FEWEST>(tables, scratch)),
        _ if n <= FEW => cpu::fastest(Few::<FEW>(tables, scratch)),
        _ => settle_many(tables, scratch),
    }
}

struct Few<'a, const N: usize>(&'a Tables, &'a mut Scratch);

impl<const N: usize> cpu::Work for Few<'_, N> {
    #[inline(always)]
    fn run(self) {
        settle_few::<N>(self.0, self.1);
    }
}

/// Symbols stay where they are, and one bit each says whether they are still there. A pair is one number, rank before
/// place, so that the least of all is the lowest rank and the leftmost of its like.
#[inline(always)]
fn settle_few<const N: usize>(tables: &Tables, scratch: &mut Scratch) {
    let Scratch { ids, ranks, .. } = scratch;
    let n = ids.len();
    let pair = |rank: u32, at: usize| if rank == NONE { NONE } else { (rank * N as u32) | at as u32 };
    let mut symbols = [0_u32; N];
    symbols[..n].copy_from_slice(ids);
    let mut pairs = [NONE; N];
    for (at, (slot, &rank)) in pairs.iter_mut().zip(ranks.iter()).enumerate() {
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
        pairs[at] = NONE;
        if behind != 0 {
            let next = behind.trailing_zeros() as usize % N;
            pairs[at] = pair(tables.rank(symbols[at], symbols[next]), at);
        }
        let before = alive & ((1 << at) - 1);
        if before != 0 {
            let previous = (63 - before.leading_zeros()) as usize % N;
            pairs[previous] = pair(tables.rank(symbols[previous], symbols[at]), previous);
        }
    }
    ids.clear();
    while alive != 0 {
        ids.push(symbols[alive.trailing_zeros() as usize % N]);
        alive &= alive - 1;
    }
}

/// With a heap of pairs and a list of symbols linked both ways: n·log n however long the piece.
fn settle_many(tables: &Tables, scratch: &mut Scratch) {
    let Scratch { ids, ranks, next, previous, heap } = scratch;
    let n = ids.len() as u32;
    next.clear();
    next.extend(1..=n);
    previous.clear();
    previous.extend((0..n).map(|i| i.wrapping_sub(1)));
    ranks.push(NONE);
    heap.clear();
    heap.extend(ranks.iter().zip(0..).filter(|(rank, _)| **rank != NONE).map(|(&rank, at)| Reverse((rank, at))));
    while let Some(Reverse((rank, at))) = heap.pop() {
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
                heap.push(Reverse((rank, left)));
            }
        }
    }
    ids.retain(|&id| id != NONE);
}
