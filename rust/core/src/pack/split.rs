//! Which samples are held out for evaluation.

use super::error::PackError;
use super::rng::{Purpose, SplitMix64};
use std::collections::{HashMap, HashSet};

/// Sample indices, each list ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// To train on.
    pub train: Vec<i64>,
    /// To evaluate on.
    pub eval: Vec<i64>,
}

/// Holds out `val_size` of `rows` samples at random: below 1 a share, rounded up; from 1 on a count; 0 nothing.
///
/// # Errors
///
/// [`PackError::ValSize`], [`PackError::NothingToTrainOn`] and [`PackError::TooManySamples`].
pub fn split(rows: usize, val_size: f64, seed: u64) -> Result<Split, PackError> {
    let (n, held_out) = held_out(rows, val_size)?;
    let mut order = SplitMix64::keyed(seed, 0, Purpose::Split).permutation(n);
    let (eval, train) = order.split_at_mut(held_out as usize);
    eval.sort_unstable();
    train.sort_unstable();
    let wide = |ids: &[u32]| ids.iter().map(|&id| i64::from(id)).collect();
    Ok(Split { train: wide(train), eval: wide(eval) })
}

/// The same, with all samples of a group (equal entries of `groups`) on one side: as many of them as `val_size` asks
/// for, or, where groups are too large for that, the nearest smaller number above 0.
///
/// # Errors
///
/// As [`split`].
pub fn split_groups(groups: &[i64], val_size: f64, seed: u64) -> Result<Split, PackError> {
    let (_, wanted) = held_out(groups.len(), val_size)?;
    let mut sizes: HashMap<i64, usize> = HashMap::new();
    // Groups in the order of their first sample: a hash order would differ from run to run.
    let mut order = Vec::new();
    for group in groups {
        let size = sizes.entry(*group).or_default();
        if *size == 0 {
            order.push(*group);
        }
        *size += 1;
    }
    SplitMix64::keyed(seed, 0, Purpose::Split).shuffle(&mut order);
    let mut left = wanted as usize;
    let mut chosen: HashSet<i64> = HashSet::new();
    for group in &order {
        if sizes[group] <= left {
            left -= sizes[group];
            chosen.insert(*group);
        }
    }
    if chosen.is_empty() && wanted > 0 {
        chosen.extend(order.iter().min_by_key(|g| sizes[g]));
    }
    let (eval, train): (Vec<i64>, Vec<i64>) =
        (0..groups.len() as i64).partition(|&i| chosen.contains(&groups[i as usize]));
    if train.is_empty() && !eval.is_empty() {
        return Err(PackError::NothingToTrainOn { val_size, held_out: eval.len() as u64, rows: groups.len() });
    }
    Ok(Split { train, eval })
}

/// The number of rows as 32 bits, and how many of them are held out.
fn held_out(rows: usize, val_size: f64) -> Result<(u32, u64), PackError> {
    let n = u32::try_from(rows).map_err(|_| PackError::TooManySamples { samples: rows })?;
    let whole = val_size >= 1.0 && val_size.fract() == 0.0;
    if !(val_size.is_finite() && (whole || (0.0..1.0).contains(&val_size))) {
        return Err(PackError::ValSize { val_size });
    }
    let held_out = if whole { val_size as u64 } else { share(rows, val_size) };
    if held_out >= rows as u64 && held_out > 0 {
        return Err(PackError::NothingToTrainOn { val_size, held_out, rows });
    }
    Ok((n, held_out))
}

/// `rows · share`, rounded up; a product that is a whole number up to rounding errors stays that number.
fn share(rows: usize, share: f64) -> u64 {
    let exact = rows as f64 * share;
    let near = exact.round();
    (if (exact - near).abs() < 1e-9 * near.max(1.0) { near } else { exact.ceil() }) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guides_split() {
        let Split { train, eval } = split(5986, 0.1, 42).unwrap();
        assert_eq!((train.len(), eval.len()), (5387, 599));
        assert!(train.is_sorted() && eval.is_sorted());
        let mut all = [train, eval].concat();
        all.sort_unstable();
        assert_eq!(all, (0..5986).collect::<Vec<_>>());
    }

    #[test]
    fn groups_stay_whole() {
        // 400 questions, 1 to 7 rows each.
        let groups: Vec<i64> = (0..1600).map(|i| (i * i + i / 7) % 400 - 200).collect();
        for (val_size, expected) in [(0.1, 160), (500.0, 500), (1.0, 1)] {
            let Split { train, eval } = split_groups(&groups, val_size, 42).unwrap();
            assert!(eval.len() <= expected && eval.len() + 7 > expected, "{val_size}: {}", eval.len());
            assert_eq!(train.len() + eval.len(), groups.len());
            let asked: HashSet<i64> = eval.iter().map(|&i| groups[i as usize]).collect();
            assert!(train.iter().all(|&i| !asked.contains(&groups[i as usize])));
        }
        assert_eq!(split_groups(&groups, 0.1, 1), split_groups(&groups, 0.1, 1));
        assert_ne!(split_groups(&groups, 0.1, 1), split_groups(&groups, 0.1, 2));
        assert_eq!(split_groups(&[5, 5, 5, 6, 6, 6], 0.1, 1).unwrap().eval.len(), 3);
        assert_eq!(split_groups(&(0..10).collect::<Vec<_>>(), 4.0, 1).unwrap().eval.len(), 4);
        assert!(split_groups(&[5, 5, 5], 0.1, 1).is_err());
        assert!(split_groups(&groups, 0.0, 1).unwrap().eval.is_empty());
    }

    #[test]
    fn counts_shares_and_nonsense() {
        assert_eq!(split(10, 3.0, 1).unwrap().eval.len(), 3);
        assert_eq!(split(10, 0.3, 1).unwrap().eval.len(), 3);
        // 7.000000000000001 in floating point.
        assert_eq!(split(100, 0.07, 1).unwrap().eval.len(), 7);
        assert!(split(0, 0.0, 1).unwrap().train.is_empty());
        assert_eq!(split(10, 0.0, 1).unwrap().eval.len(), 0);
        assert_ne!(split(1000, 0.1, 1), split(1000, 0.1, 2));
        for wrong in [-0.1, 1.5, f64::NAN, f64::INFINITY] {
            assert!(matches!(split(10, wrong, 1), Err(PackError::ValSize { .. })));
        }
        assert!(matches!(split(10, 10.0, 1), Err(PackError::NothingToTrainOn { .. })));
        assert!(matches!(split(1, 0.5, 1), Err(PackError::NothingToTrainOn { .. })));
    }
}
