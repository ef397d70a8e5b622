//! Merging one stretch of symbols: all pairs are compared if they are few, and kept in a heap if they are many.

use super::cpu::{self, Cpu};
use super::line::NONE;
use super::tables::Tables;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Up to here looking through all pairs for the lowest beats keeping them in a heap.
pub(super) const FEW: usize = 64;
/// Most pieces have no more symbols.
const FEWEST: usize = 16;

/// A token and the place of its first symbol.
pub(super) type Placed = (u32, u32);

/// Merges symbols whose neighbours merge at `ranks`, one fewer.
pub(super) fn settle_part(tables: &Tables, ids: &[u32], ranks: &[u32], tokens: &mut Vec<Placed>, heap: &mut Heap) {
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

    #[inline(always)]
    fn run(self, cpu: impl Cpu) {
        let mut window = Window::<N>::of(self.ids, self.ranks);
        while window.step(cpu, self.tables) {}
        window.tokens(0, self.tokens);
    }
}

/// At most `N` symbols while they merge. They stay where they are, and one bit each says whether they are still there. A pair is
/// one number, rank before place, so that the least of all is the lowest rank and the leftmost of its like.
pub(super) struct Window<const N: usize> {
    symbols: [u32; N],
    pairs: [u32; N],
    alive: u64,
}

impl<const N: usize> Window<N> {
    #[inline(always)]
    fn pair(rank: u32, at: usize) -> u32 {
        if rank == NONE { NONE } else { (rank * N as u32) | at as u32 }
    }

    #[inline(always)]
    pub(super) fn of(ids: &[u32], ranks: &[u32]) -> Self {
        let (mut symbols, mut pairs) = ([0; N], [NONE; N]);
        symbols[..ids.len()].copy_from_slice(ids);
        for (at, (slot, &rank)) in pairs.iter_mut().zip(ranks).enumerate() {
            *slot = Self::pair(rank, at);
        }
        Self { symbols, pairs, alive: u64::MAX >> (64 - ids.len()) }
    }

    /// Merges one pair, if any can.
    #[inline(always)]
    pub(super) fn step(&mut self, cpu: impl Cpu, tables: &Tables) -> bool {
        let Self { symbols, pairs, alive } = self;
        let lowest = pairs.iter().fold(NONE, |a, &b| a.min(b));
        if lowest == NONE {
            return false;
        }
        let (rank, at) = (lowest / N as u32, lowest as usize % N);
        let merged = tables.merged[rank as usize];
        symbols[at] = merged;
        let behind = *alive & (u64::MAX - 1) << at;
        let gone = behind.trailing_zeros() as usize % N;
        pairs[gone] = NONE;
        *alive &= !(1 << gone);
        let behind = behind & behind.wrapping_sub(1);
        let before = *alive & ((1 << at) - 1);
        // If there is no neighbour on a side, the symbol itself is looked up, and the result is not used.
        let next = if behind == 0 { at } else { behind.trailing_zeros() as usize % N };
        let previous = if before == 0 { at } else { (63 - before.leading_zeros()) as usize % N };
        let with_next = tables.rank(cpu, merged, symbols[next]);
        let with_previous = tables.rank(cpu, symbols[previous], merged);
        if before != 0 {
            pairs[previous] = Self::pair(with_previous, previous);
        }
        pairs[at] = if behind == 0 { NONE } else { Self::pair(with_next, at) };
        true
    }

    /// What is left, the first symbol being at `start`.
    #[inline(always)]
    pub(super) fn tokens(&self, start: u32, tokens: &mut Vec<Placed>) {
        let mut alive = self.alive;
        while alive != 0 {
            let at = alive.trailing_zeros();
            tokens.push((self.symbols[at as usize % N], start + at));
            alive &= alive - 1;
        }
    }
}

/// A heap of pairs and a list of symbols linked both ways: n·log n however many symbols.
#[derive(Default)]
pub(super) struct Heap {
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
            // Merged, or paired again since.
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
                let rank = tables.rank(cpu::PLAIN, ids[left as usize], ids[right as usize]);
                ranks[left as usize] = rank;
                if rank != NONE {
                    pairs.push(Reverse((rank, left)));
                }
            }
        }
        tokens.extend(ids.iter().zip(0..).filter(|(id, _)| **id != NONE).map(|(&id, at)| (id, at)));
    }
}
