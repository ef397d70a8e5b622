//! Best-fit decreasing over length classes: whole groups of equal samples into whole groups of
//! equally full rows.
//!
//! Best-fit decreasing takes the samples longest first and puts each into the fullest row that
//! still has room (Johnson 1973; used for training data by Ding et al., "Fewer Truncations Improve
//! Language Modeling", arXiv 2404.10830). Item by item that is O(n log L). Lengths are small
//! integers though, so samples of one length and rows of one free space are interchangeable, and
//! one step can place thousands: if the tightest rows that take a sample of length l have s tokens
//! free, each of them takes ⌊s/l⌋ in a row, because after one placement it is again the tightest.
//! The result is exactly best-fit decreasing, in O(n + L + groups) for rows of L tokens.
//!
//! A sample longer than a row is treated as exactly a row long: it gets one of its own.

use super::error::{PackError, at_least_one, check_lengths};
use super::free_space::FreeSpaces;

/// Which samples share a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packing {
    /// Every sample once, row after row; inside a row longest first, equal lengths by index.
    pub sample_ids: Vec<i64>,
    /// Row `r` is `sample_ids[row_offsets[r]..row_offsets[r + 1]]`.
    pub row_offsets: Vec<i64>,
}

/// Packs samples into few rows of at most `capacity` tokens; a longer sample gets a row of its own.
///
/// ```
/// # use qlora_fast_core::pack::pack;
/// let packing = pack(&[30, 70, 50, 20], 100)?;
/// assert_eq!(packing.sample_ids, [1, 0, 2, 3]);
/// assert_eq!(packing.row_offsets, [0, 2, 4]);
/// # Ok::<(), qlora_fast_core::pack::PackError>(())
/// ```
///
/// # Errors
///
/// [`PackError::EmptySample`], [`PackError::TooManySamples`], [`PackError::CapacityTooLarge`], and
/// [`PackError::Zero`] for a capacity of 0.
pub fn pack(lengths: &[u32], capacity: u32) -> Result<Packing, PackError> {
    let classes = LengthClasses::new(lengths, capacity)?;
    let layout = Layout::best_fit_decreasing(&classes.counts, classes.capacity);
    Ok(layout.write(&classes.sample_ids, None))
}

/// The samples of a dataset by length.
pub(super) struct LengthClasses {
    /// Tokens that a row holds; no more than the dataset has.
    pub(super) capacity: u32,
    /// `counts[l]` samples of `l` tokens.
    pub(super) counts: Vec<u32>,
    /// Longest first, equal lengths by index.
    pub(super) sample_ids: Vec<u32>,
}

impl LengthClasses {
    /// Entries of the largest table indexed by tokens; 2²⁶ of 4 bytes are 256 MiB.
    pub(super) const LARGEST_TABLE: usize = 1 << 26;

    pub(super) fn new(lengths: &[u32], capacity: u32) -> Result<Self, PackError> {
        check_lengths(lengths)?;
        at_least_one("capacity", capacity)?;
        // "As much as possible in a row" is a fair wish: then one row holds everything.
        let tokens: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        let capacity = u32::try_from(tokens).map_or(capacity, |tokens| capacity.min(tokens.max(1)));
        if capacity as usize >= Self::LARGEST_TABLE {
            let limit = Self::LARGEST_TABLE as u32 - 1;
            return Err(PackError::CapacityTooLarge { capacity, limit });
        }

        let counts = Self::count(lengths, capacity);
        let mut next = vec![0; counts.len()];
        let mut start = 0;
        for (next, &count) in next.iter_mut().zip(&counts).rev() {
            *next = start;
            start += count;
        }
        let mut sample_ids = vec![0; lengths.len()];
        for (id, &length) in (0..).zip(lengths) {
            let at = &mut next[length.min(capacity) as usize];
            sample_ids[*at as usize] = id;
            *at += 1;
        }
        Ok(Self { capacity, counts, sample_ids })
    }

    /// How many samples there are of each length up to `capacity`, longer ones counted as that.
    pub(super) fn count(lengths: &[u32], capacity: u32) -> Vec<u32> {
        let longest = lengths.iter().copied().max().unwrap_or(0).min(capacity);
        let mut counts = vec![0; longest as usize + 1];
        for &length in lengths {
            counts[length.min(capacity) as usize] += 1;
        }
        counts
    }
}

/// The shape of a packing: how many samples of which length each row has, but not which samples.
pub(super) struct Layout {
    /// In the order in which samples are taken: longest first.
    placements: Vec<Placement>,
    n_rows: u32,
}

/// The next `rows * per_row` samples go into `rows` neighbouring rows, `per_row` into each.
struct Placement {
    first_row: u32,
    rows: u32,
    per_row: u32,
}

impl Layout {
    /// `counts[l]` samples of `l` tokens into rows of `capacity` tokens.
    pub(super) fn best_fit_decreasing(counts: &[u32], capacity: u32) -> Self {
        let mut layout = Self { placements: Vec::new(), n_rows: 0 };
        let mut open = OpenRows::new(capacity);
        for (length, &count) in (0..counts.len() as u32).zip(counts).skip(1).rev() {
            let mut left = count;
            while left > 0 {
                let (free, rows) = open.take_tightest(length).unwrap_or_else(|| {
                    // Rows of their own for all that is left; the last may be filled in part.
                    let rows = left.div_ceil(capacity / length);
                    let first = layout.n_rows;
                    layout.n_rows += rows;
                    (capacity, RowRange { first, rows })
                });
                let per_row = free / length;
                // Rows that are filled to the brim, or one row with the few samples that are left.
                let (filled, per_row) = match left / per_row {
                    0 => (1, left),
                    full => (full.min(rows.rows), per_row),
                };
                layout.placements.push(Placement { first_row: rows.first, rows: filled, per_row });
                open.put(free - per_row * length, RowRange { first: rows.first, rows: filled });
                open.put(free, RowRange { first: rows.first + filled, rows: rows.rows - filled });
                left -= filled * per_row;
            }
        }
        layout
    }

    /// Gives the places to samples, in the order of `sample_ids`; `order[r]` is the row that comes `r`-th.
    pub(super) fn write(&self, sample_ids: &[u32], order: Option<&[u32]>) -> Packing {
        let n_rows = self.n_rows as usize;
        let mut sizes = vec![0_u32; n_rows];
        for p in &self.placements {
            for size in &mut sizes[p.first_row as usize..(p.first_row + p.rows) as usize] {
                *size += p.per_row;
            }
        }
        let mut starts = vec![0_u32; n_rows];
        let mut row_offsets = Vec::with_capacity(n_rows + 1);
        row_offsets.push(0);
        let mut at = 0;
        for position in 0..n_rows {
            let row = order.map_or(position, |order| order[position] as usize);
            starts[row] = at;
            at += sizes[row];
            row_offsets.push(i64::from(at));
        }
        let mut written = vec![0_i64; sample_ids.len()];
        let mut ids = sample_ids;
        for p in &self.placements {
            for start in &mut starts[p.first_row as usize..(p.first_row + p.rows) as usize] {
                let (row, rest) = ids.split_at(p.per_row as usize);
                let place = &mut written[*start as usize..][..row.len()];
                for (slot, &id) in place.iter_mut().zip(row) {
                    *slot = i64::from(id);
                }
                *start += p.per_row;
                ids = rest;
            }
        }
        Packing { sample_ids: written, row_offsets }
    }

    /// How many rows there are.
    pub(super) fn n_rows(&self) -> u32 {
        self.n_rows
    }
}

/// Neighbouring rows that are equally full.
#[derive(Clone, Copy)]
struct RowRange {
    first: u32,
    rows: u32,
}

/// Rows with room, by how much of it they have.
struct OpenRows {
    by_free: Vec<Vec<RowRange>>,
    free: FreeSpaces,
}

impl OpenRows {
    fn new(capacity: u32) -> Self {
        Self { by_free: vec![Vec::new(); capacity as usize + 1], free: FreeSpaces::up_to(capacity) }
    }

    fn put(&mut self, free: u32, rows: RowRange) {
        if free > 0 && rows.rows > 0 {
            self.by_free[free as usize].push(rows);
            self.free.insert(free);
        }
    }

    /// Some of the rows with the least room that still take a sample of `length`, and that room.
    fn take_tightest(&mut self, length: u32) -> Option<(u32, RowRange)> {
        let free = self.free.at_least(length)?;
        let ranges = &mut self.by_free[free as usize];
        let rows = ranges.pop()?;
        if ranges.is_empty() {
            self.free.remove(free);
        }
        Some((free, rows))
    }
}
