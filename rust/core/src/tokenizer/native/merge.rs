//! Byte-pair encoding proper: the lowest-ranked pair of neighbours merges, the leftmost of equals, until none can.

use super::tables::{NONE, Tables};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Up to here looking through all pairs for the lowest beats keeping them in a heap.
const FEW: usize = 64;

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
    if scratch.ids.len() <= FEW { settle_few(tables, scratch) } else { settle_many(tables, scratch) }
}

fn settle_few(tables: &Tables, scratch: &mut Scratch) {
    let Scratch { ids, ranks, .. } = scratch;
    let (mut few_ids, mut few_ranks) = ([0_u32; FEW], [NONE; FEW]);
    let mut n = ids.len();
    few_ids[..n].copy_from_slice(ids);
    few_ranks[..ranks.len()].copy_from_slice(ranks);
    while n > 1 {
        let (mut at, mut lowest) = (0, NONE);
        for (i, &rank) in few_ranks[..n - 1].iter().enumerate() {
            if rank < lowest {
                (at, lowest) = (i, rank);
            }
        }
        if lowest == NONE {
            break;
        }
        few_ids[at] = tables.merged[lowest as usize];
        few_ids.copy_within(at + 2..n, at + 1);
        few_ranks.copy_within(at + 1..n - 1, at);
        n -= 1;
        if at + 1 < n {
            few_ranks[at] = tables.rank(few_ids[at], few_ids[at + 1]);
        }
        if at > 0 {
            few_ranks[at - 1] = tables.rank(few_ids[at - 1], few_ids[at]);
        }
    }
    ids.clear();
    ids.extend_from_slice(&few_ids[..n]);
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
