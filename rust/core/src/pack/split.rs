//! Which samples are held out for evaluation.

use super::PackError;
use super::rng::{Purpose, SplitMix64};

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
    let n = u32::try_from(rows).map_err(|_| PackError::TooManySamples { samples: rows })?;
    let whole = val_size >= 1.0 && val_size.fract() == 0.0;
    if !(val_size.is_finite() && (whole || (0.0..1.0).contains(&val_size))) {
        return Err(PackError::ValSize { val_size });
    }
    let held_out = if whole { val_size as u64 } else { share(rows, val_size) };
    if held_out >= rows as u64 && held_out > 0 {
        return Err(PackError::NothingToTrainOn { val_size, held_out, rows });
    }
    let mut order = SplitMix64::keyed(seed, 0, Purpose::Split).permutation(n);
    let (eval, train) = order.split_at_mut(held_out as usize);
    eval.sort_unstable();
    train.sort_unstable();
    let wide = |ids: &[u32]| ids.iter().map(|&id| i64::from(id)).collect();
    Ok(Split { train: wide(train), eval: wide(eval) })
}

/// `rows · share`, rounded up; a product that is whole but for the last bits of a double stays whole.
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
        let mut all = [train, eval].concat();
        all.sort_unstable();
        assert_eq!(all, (0..5986).collect::<Vec<_>>());
    }

    #[test]
    fn counts_shares_and_nonsense() {
        assert_eq!(split(10, 3.0, 1).unwrap().eval.len(), 3);
        assert_eq!(split(10, 0.3, 1).unwrap().eval.len(), 3);
        assert_eq!(split(1000, 0.07, 1).unwrap().eval.len(), 70);
        assert_eq!(split(10, 0.0, 1).unwrap().eval.len(), 0);
        assert_ne!(split(1000, 0.1, 1), split(1000, 0.1, 2));
        for wrong in [-0.1, 1.5, f64::NAN, f64::INFINITY] {
            assert!(matches!(split(10, wrong, 1), Err(PackError::ValSize { .. })));
        }
        assert!(matches!(split(10, 10.0, 1), Err(PackError::NothingToTrainOn { .. })));
        assert!(matches!(split(1, 0.5, 1), Err(PackError::NothingToTrainOn { .. })));
    }
}
