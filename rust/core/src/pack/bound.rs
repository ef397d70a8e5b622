//! How few rows could hold the samples: the yardstick printed next to the rows of a packing.
//!
//! The bound L2 of Martello and Toth, "Lower bounds and reduction procedures for the bin packing
//! problem" (Discrete Applied Mathematics 28, 1990). It needs one pass over the distinct lengths.

use super::bfd::LengthClasses;
use super::error::{PackError, at_least_one, check_lengths};

/// No packing of `lengths` into rows of `capacity` tokens has fewer rows than this. A sample longer
/// than a row counts as a full one, as [`pack`](super::pack) gives it a row of its own.
///
/// # Errors
///
/// [`PackError::EmptySample`], [`PackError::TooManySamples`], and [`PackError::Zero`] for a capacity of 0.
pub fn lower_bound(lengths: &[u32], capacity: u32) -> Result<u64, PackError> {
    check_lengths(lengths)?;
    at_least_one("capacity", capacity)?;
    let mut sorted: Vec<u32>;
    let longest = lengths.iter().copied().max().unwrap_or(0).min(capacity);
    let classes: Vec<(u32, u32)> = if (longest as usize) < LengthClasses::LARGEST_TABLE {
        let counts = LengthClasses::count(lengths, capacity);
        let lengths = (0..counts.len() as u32).zip(counts).rev();
        lengths.filter(|&(_, count)| count > 0).collect()
    } else {
        // Rows of so many tokens that a table of them would be larger than the samples.
        sorted = lengths.iter().map(|&length| length.min(capacity)).collect();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        run_lengths(&sorted).collect()
    };
    Ok(l2(&classes, capacity))
}

/// Equal neighbours as (value, how many).
pub(super) fn run_lengths(sorted: &[u32]) -> impl Iterator<Item = (u32, u32)> {
    // At most 2³²−1 samples, see `check_lengths`.
    sorted.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u32))
}

/// L2 over distinct lengths (longest first, none above `capacity`) with their counts.
///
/// For a threshold `a` ≤ capacity/2: samples above capacity/2 need a row each; of these rows only
/// those with free space ≥ `a` can take any sample of at least `a`; what those cannot take needs
/// rows of its own. The bound is the largest value over all `a`.
pub(super) fn l2(classes: &[(u32, u32)], capacity: u32) -> u64 {
    let row = u64::from(capacity);
    let large = classes.partition_point(|&(length, _)| u64::from(length) * 2 > row);
    let (large, small) = classes.split_at(large);

    let total = |classes: &[(u32, u32)]| {
        classes.iter().fold((0, 0), |(count, tokens), &(length, n)| {
            (count + u64::from(n), tokens + u64::from(length) * u64::from(n))
        })
    };
    let (n_large, tokens_large) = total(large);

    let mut bound = n_large;
    // `closed`: large samples that leave less than `a` free. It shrinks as `a` does.
    let mut closed = large.len();
    let (mut n_closed, mut tokens_closed) = (n_large, tokens_large);
    let mut tokens_small = 0;
    for &(a, n) in small {
        tokens_small += u64::from(a) * u64::from(n);
        while closed > 0 && u64::from(large[closed - 1].0) + u64::from(a) <= row {
            closed -= 1;
            let (length, n) = large[closed];
            n_closed -= u64::from(n);
            tokens_closed -= u64::from(length) * u64::from(n);
        }
        let room = (n_large - n_closed) * row - (tokens_large - tokens_closed);
        bound = bound.max(n_large + tokens_small.saturating_sub(room).div_ceil(row));
    }
    bound
}

#[cfg(test)]
mod tests {
    use super::lower_bound;
    use proptest::prelude::*;

    /// L2 as it is defined: the largest bound over every threshold.
    fn by_definition(lengths: &[u32], capacity: u32) -> u64 {
        let row = u64::from(capacity);
        let (large, small): (Vec<u64>, Vec<u64>) =
            lengths.iter().map(|&length| u64::from(length.min(capacity))).partition(|length| length * 2 > row);
        let bound = |threshold: u64| {
            let room: u64 = large.iter().map(|length| row - length).filter(|&free| free >= threshold).sum();
            let tokens: u64 = small.iter().filter(|&&length| length >= threshold).sum();
            large.len() as u64 + tokens.saturating_sub(room).div_ceil(row)
        };
        (1..=row).map(bound).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn is_what_its_definition_gives(lengths in proptest::collection::vec(1_u32..90, 0..30), capacity in 1_u32..80) {
            prop_assert_eq!(lower_bound(&lengths, capacity).unwrap(), by_definition(&lengths, capacity));
            // In units so small that the samples are sorted instead of counted in a table.
            let scaled: Vec<u32> = lengths.iter().map(|length| length << 24).collect();
            prop_assert_eq!(lower_bound(&scaled, capacity << 24).unwrap(), by_definition(&lengths, capacity));
        }
    }

    #[test]
    fn is_the_token_count_where_that_is_tight() {
        assert_eq!(lower_bound(&[50; 20], 100), Ok(10));
        assert_eq!(lower_bound(&[], 100), Ok(0));
        assert_eq!(lower_bound(&[1], 100), Ok(1));
    }

    #[test]
    fn sees_that_large_samples_cannot_share() {
        // 3 × 60 tokens would fit into two rows of 100 if samples could be cut.
        assert_eq!(lower_bound(&[60; 3], 100), Ok(3));
        // Each 60 leaves 40; the six 45s fit beside none of them.
        assert_eq!(lower_bound(&[60, 60, 60, 45, 45, 45, 45, 45, 45], 100), Ok(6));
    }

    #[test]
    fn counts_a_sample_longer_than_a_row_once() {
        assert_eq!(lower_bound(&[1000, 30], 100), Ok(2));
    }

    #[test]
    fn is_the_same_by_table_and_by_sorting() {
        let scaled: Vec<u32> = [60, 60, 60, 45, 45, 45, 45, 45, 45].iter().map(|l| l * 10_000_000).collect();
        assert_eq!(lower_bound(&scaled, 1_000_000_000), Ok(6));
    }
}
