//! The samples of one optimizer step in the fewest rows, evenly filled.
//!
//! Longest sample first, each into the emptiest row (LPT: Graham, "Bounds on multiprocessing timing anomalies", 1969):
//! that balances the rows, and with them the devices. The number of rows starts at the lower bound and rises until the
//! emptiest row never overflows, or best-fit decreasing would need no more. If even that many rows overflow, they are
//! those of best-fit decreasing under the smallest budget that suffices (MULTIFIT: Coffman, Garey and Johnson,
//! 1978). So an optimizer step never has more rows than best-fit decreasing gives it.

use super::bound::{l2, run_lengths};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Puts windows of samples into rows. Holds its buffers: an epoch has thousands of windows.
pub(super) struct Windows {
    budget: u32,
    world_size: u32,
    /// The window: longest first, equal lengths by id. See [`Entry`].
    entries: Vec<Entry>,
    /// Their lengths; a longer sample counts as the budget, and so gets a row of its own.
    lengths: Vec<u32>,
    /// `row_of[i]` is the row of `entries[i]`.
    row_of: Vec<u32>,
    /// The rows, the emptiest on top.
    heap: Vec<Reverse<u64>>,
    /// The samples row after row.
    ids: Vec<u32>,
    /// Where each row starts in `ids`, and the end.
    starts: Vec<u32>,
}

/// `!length` above, id below: in one word, because planning spends most of its time sorting windows.
type Entry = u64;

fn entry(length: u32, id: u32) -> Entry {
    u64::from(!length) << 32 | u64::from(id)
}

fn length_of(entry: Entry) -> u32 {
    !((entry >> 32) as u32)
}

fn id_of(entry: Entry) -> u32 {
    entry as u32
}

impl Windows {
    pub(super) fn new(budget: u32, world_size: u32) -> Self {
        Self {
            budget,
            world_size,
            entries: Vec::new(),
            lengths: Vec::new(),
            row_of: Vec::new(),
            heap: Vec::new(),
            ids: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// The rows of `window`, in the order in which devices take turns to get one; inside a row longest first, equal
    /// lengths by id.
    ///
    /// There is a multiple of `world_size` of them, unless there are too few samples for that.
    pub(super) fn rows(&mut self, window: &[u32], lengths: &[u32]) -> impl Iterator<Item = &[u32]> {
        self.entries.clear();
        self.entries.extend(window.iter().map(|&id| entry(lengths[id as usize], id)));
        self.entries.sort_unstable();
        self.lengths.clear();
        self.lengths.extend(self.entries.iter().map(|&entry| length_of(entry).min(self.budget)));

        let n_rows = self.assign() as usize;
        self.lay_out(n_rows);
        self.starts.windows(2).map(|row| &self.ids[row[0] as usize..row[1] as usize])
    }

    /// Fills `row_of` and returns the number of rows, none of them empty.
    fn assign(&mut self) -> u32 {
        let bound = self.lower_bound();
        let n_rows = self.even(bound);
        if self.longest_to_emptiest(n_rows) {
            return n_rows;
        }
        // Halve what lies between the bound and a number of rows that is surely enough.
        let mut fewest = bound + 1;
        let mut enough = best_fit(&self.lengths, self.budget, &mut self.row_of);
        while fewest < enough {
            let middle = u32::midpoint(fewest, enough);
            if self.longest_to_emptiest(self.even(middle)) {
                enough = middle;
            } else {
                fewest = middle + 1;
            }
        }
        let n_rows = self.even(enough);
        if !self.longest_to_emptiest(n_rows) {
            let used = multifit(&self.lengths, n_rows, self.budget, &mut self.row_of);
            split_rows(&self.lengths, used, n_rows, &mut self.row_of);
        }
        n_rows
    }

    fn lower_bound(&self) -> u32 {
        let tokens: u64 = self.lengths.iter().map(|&length| u64::from(length)).sum();
        if tokens <= u64::from(self.budget) {
            return 1;
        }
        let classes: Vec<_> = run_lengths(&self.lengths).collect();
        // No more than samples, which are counted in 32 bits.
        l2(&classes, self.budget) as u32
    }

    /// `n_rows`, or the few more that give each device as many, if there are samples for them.
    fn even(&self, n_rows: u32) -> u32 {
        let even = n_rows.next_multiple_of(self.world_size);
        if even as usize <= self.lengths.len() { even } else { n_rows }
    }

    /// LPT into `n_rows`; false if a row would exceed the budget.
    fn longest_to_emptiest(&mut self, n_rows: u32) -> bool {
        self.row_of.clear();
        self.heap.clear();
        // Tokens above, row below.
        self.heap.extend((0..u64::from(n_rows)).map(Reverse));
        let mut rows = BinaryHeap::from(std::mem::take(&mut self.heap));
        for &length in &self.lengths {
            let Some(mut emptiest) = rows.peek_mut() else { break };
            let tokens = (emptiest.0 >> 32) as u32;
            if length > self.budget - tokens {
                break;
            }
            self.row_of.push(emptiest.0 as u32);
            emptiest.0 += u64::from(length) << 32;
        }
        self.heap = rows.into_vec();
        self.row_of.len() == self.lengths.len()
    }

    /// Writes the rows one after another, in the order of [`deal`].
    fn lay_out(&mut self, n_rows: usize) {
        let mut tokens = vec![0; n_rows];
        let mut sizes = vec![0; n_rows];
        for (&row, &entry) in self.row_of.iter().zip(&self.entries) {
            tokens[row as usize] += u64::from(length_of(entry));
            sizes[row as usize] += 1;
        }
        let mut next = vec![0_u32; n_rows];
        let mut end = 0;
        self.starts.clear();
        self.starts.push(0);
        for row in deal(&tokens, self.world_size) {
            next[row as usize] = end;
            end += sizes[row as usize];
            self.starts.push(end);
        }
        self.ids.resize(self.entries.len(), 0);
        for (&row, &entry) in self.row_of.iter().zip(&self.entries) {
            let place = &mut next[row as usize];
            self.ids[*place as usize] = id_of(entry);
            *place += 1;
        }
    }
}

/// The order of rows of these costs in which devices that take turns get rows of like cost at a time, and like costs
/// in the end: dearest first, every other round backwards.
pub(super) fn deal(costs: &[u64], world_size: u32) -> Vec<u32> {
    // No more rows than samples.
    let mut rows: Vec<u32> = (0..costs.len() as u32).collect();
    rows.sort_by_key(|&row| Reverse(costs[row as usize]));
    for round in rows.chunks_mut(world_size as usize).skip(1).step_by(2) {
        round.reverse();
    }
    rows
}

/// Best-fit decreasing, item by item: a window is too small for length classes to pay.
fn best_fit(lengths: &[u32], budget: u32, row_of: &mut Vec<u32>) -> u32 {
    row_of.clear();
    let mut n_rows = 0;
    // (free, row), ascending.
    let mut open: Vec<(u32, u32)> = Vec::new();
    for &length in lengths {
        let at = open.partition_point(|&(free, _)| free < length);
        let (free, row) = if at < open.len() {
            open.remove(at)
        } else {
            n_rows += 1;
            (budget, n_rows - 1)
        };
        row_of.push(row);
        let rest = (free - length, row);
        open.insert(open.partition_point(|open| *open < rest), rest);
    }
    n_rows
}

/// Best-fit decreasing under a small budget with which it needs no more than `n_rows`; with `budget` itself it must
/// not. Returns the rows used.
fn multifit(lengths: &[u32], n_rows: u32, budget: u32, row_of: &mut Vec<u32>) -> u32 {
    let tokens: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
    // Fits: `n_rows` rows of the budget hold all tokens.
    let mean = tokens.div_ceil(u64::from(n_rows)) as u32;
    let mut low = mean.max(lengths.first().copied().unwrap_or(0));
    let mut enough = budget;
    while low < enough {
        let middle = u32::midpoint(low, enough);
        if best_fit(lengths, middle, row_of) <= n_rows {
            enough = middle;
        } else {
            low = middle + 1;
        }
    }
    best_fit(lengths, enough, row_of)
}

/// Moves single samples from the fullest rows into new ones until there are `n_rows`; there are samples for them.
fn split_rows(lengths: &[u32], used: u32, n_rows: u32, row_of: &mut [u32]) {
    for new_row in used..n_rows {
        // (tokens, samples, the shortest sample) of each row.
        let mut rows = vec![(0_u64, 0_u32, 0_usize); new_row as usize];
        for (sample, (&row, &length)) in row_of.iter().zip(lengths).enumerate() {
            let (tokens, samples, shortest) = &mut rows[row as usize];
            *tokens += u64::from(length);
            *samples += 1;
            *shortest = sample;
        }
        let divisible = rows.iter().filter(|(_, samples, _)| *samples > 1);
        if let Some(&(_, _, shortest)) = divisible.max_by_key(|(tokens, _, _)| *tokens) {
            row_of[shortest] = new_row;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lengths: &[u32], budget: u32, world_size: u32) -> Vec<Vec<u32>> {
        let window: Vec<u32> = (0..lengths.len() as u32).collect();
        Windows::new(budget, world_size).rows(&window, lengths).map(<[u32]>::to_vec).collect()
    }

    fn tokens(rows: &[Vec<u32>], lengths: &[u32]) -> Vec<u32> {
        rows.iter().map(|row| row.iter().map(|&id| lengths[id as usize]).sum()).collect()
    }

    #[test]
    fn an_update_that_fits_is_one_row() {
        assert_eq!(rows(&[5, 9, 3], 17, 1), [[1, 0, 2]]);
    }

    #[test]
    fn rows_are_balanced_not_filled() {
        let lengths = [8, 7, 6, 5, 4];
        assert_eq!(tokens(&rows(&lengths, 25, 1), &lengths), [17, 13]);
    }

    #[test]
    fn every_device_gets_a_row_if_there_are_samples_for_it() {
        assert_eq!(rows(&[5, 9, 3], 100, 2).len(), 2);
        assert_eq!(rows(&[5, 9, 3], 100, 4).len(), 1);
        assert_eq!(rows(&[50, 50, 50], 60, 2).len(), 3);
    }

    #[test]
    fn best_fit_steps_in_where_balance_overflows() {
        // Balanced, the last 4 finds 8 and 9 of 12 taken; packed, 7 + 5 and 5 + 4 + 3 are two full rows.
        let lengths = [7, 5, 5, 4, 3];
        let mut windows = Windows::new(12, 1);
        windows.lengths = lengths.to_vec();
        assert!(!windows.longest_to_emptiest(2));
        assert_eq!(tokens(&rows(&lengths, 12, 1), &lengths), [12, 12]);
    }

    #[test]
    fn rows_of_best_fit_are_split_until_every_device_has_one() {
        let lengths = [7, 5, 5, 4, 3];
        let mut row_of = Vec::new();
        assert_eq!(multifit(&lengths, 4, 12, &mut row_of), 4);
        let used = best_fit(&lengths, 12, &mut row_of);
        split_rows(&lengths, used, 4, &mut row_of);
        assert_eq!(row_of.iter().max(), Some(&3));
        assert!((0..4).all(|row| row_of.contains(&row)));
    }

    #[test]
    fn the_fullest_row_of_several_samples_is_split() {
        let mut row_of = vec![0, 0, 1, 1, 1, 1];
        split_rows(&[10, 9, 8, 1, 1, 1], 2, 3, &mut row_of);
        assert_eq!(row_of, [0, 2, 1, 1, 1, 1]);
        let mut row_of = vec![0, 1, 1];
        split_rows(&[30, 5, 5], 2, 3, &mut row_of);
        assert_eq!(row_of, [0, 1, 2]);
    }

    #[test]
    fn a_sample_longer_than_the_budget_is_alone() {
        assert_eq!(rows(&[30, 4, 5], 10, 1), [vec![0], vec![2, 1]]);
    }

    #[test]
    fn devices_take_turns_there_and_back() {
        assert_eq!(deal(&[10, 40, 30, 20, 50, 60], 2), [5, 4, 2, 1, 3, 0]);
        assert_eq!(deal(&[1, 2, 3], 1), [2, 1, 0]);
    }
}
