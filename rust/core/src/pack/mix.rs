//! Which samples of several datasets an epoch holds: all of each, or as many of each as a strategy says.
//!
//! Only *how often* each sample is taken is decided here; the plan decides the order of an epoch. Each dataset is drawn
//! from in a random order, so that a strategy does not leave out the end of a file.

use super::error::PackError;
use super::rng::{Purpose, SplitMix64};
use strum::EnumString;

/// How datasets are put together: LLaMA-Factory's `mix_strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "snake_case", parse_err_ty = PackError, parse_err_fn = unknown_strategy)]
pub enum MixStrategy {
    /// All samples of all datasets, once.
    Concat,
    /// Until the first dataset is used up: nothing is repeated, the rest of the others is left out.
    #[strum(serialize = "interleave_under")]
    Under,
    /// Until every dataset is used up: smaller ones are repeated.
    #[strum(serialize = "interleave_over")]
    Over,
}

fn unknown_strategy(name: &str) -> PackError {
    PackError::UnknownMix { name: name.to_owned() }
}

/// Indices into each dataset, which has as many samples as `sizes` says; a dataset that is repeated has
/// some of them more than once. `weights` are the datasets' shares of the draws; without them they take turns.
///
/// # Errors
///
/// [`PackError::Weights`], [`PackError::UnknownMix`] and [`PackError::TooManySamples`].
pub fn mix(sizes: &[usize], weights: &[f64], strategy: MixStrategy, seed: u64) -> Result<Vec<Vec<i64>>, PackError> {
    let total: f64 = weights.iter().sum();
    let sound =
        weights.is_empty() || (weights.len() == sizes.len() && weights.iter().all(|w| *w > 0.0) && total.is_finite());
    if !sound {
        return Err(PackError::Weights { weights: weights.len(), datasets: sizes.len() });
    }
    if let Some(&samples) = sizes.iter().find(|n| u32::try_from(**n).is_err()) {
        return Err(PackError::TooManySamples { samples });
    }
    if strategy == MixStrategy::Concat || sizes.is_empty() {
        return Ok(sizes.iter().map(|&n| (0..n as i64).collect()).collect());
    }
    let draws = sizes.iter().zip(weights).map(|(&size, weight)| size as f64 * total / weight).fold(0.0, f64::max);
    if strategy == MixStrategy::Over && draws > f64::from(u32::MAX) {
        return Err(PackError::TooManySamples { samples: draws as usize });
    }
    let counts = if weights.is_empty() { take_turns(sizes, strategy) } else { draw(sizes, weights, strategy, seed) };
    let taken = sizes.iter().zip(counts).enumerate().map(|(number, (&size, count))| {
        let mut random = SplitMix64::keyed(seed, number as u64, Purpose::Mix);
        let mut indices = Vec::with_capacity(count);
        while indices.len() < count {
            let pass = random.permutation(size as u32);
            let left = count - indices.len();
            indices.extend(pass.into_iter().take(left).map(i64::from));
        }
        indices.sort_unstable();
        indices
    });
    Ok(taken.collect())
}

fn take_turns(sizes: &[usize], strategy: MixStrategy) -> Vec<usize> {
    let rounds = match strategy {
        MixStrategy::Under => sizes.iter().min(),
        _ => sizes.iter().max(),
    };
    vec![rounds.copied().unwrap_or(0); sizes.len()]
}

/// Draws datasets with their weights until the first, or the last of them, is used up.
fn draw(sizes: &[usize], weights: &[f64], strategy: MixStrategy, seed: u64) -> Vec<usize> {
    let total: f64 = weights.iter().sum();
    let mut random = SplitMix64::keyed(seed, u64::MAX, Purpose::Mix);
    let mut counts = vec![0; sizes.len()];
    loop {
        let used_up = |i: usize| counts[i] >= sizes[i];
        let done = match strategy {
            MixStrategy::Under => (0..sizes.len()).any(used_up),
            _ => (0..sizes.len()).all(used_up),
        };
        if done {
            return counts;
        }
        // 53 bits: every double in 0 … 1 that a fraction can be.
        let mut at = (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 * total;
        let mut chosen = sizes.len() - 1;
        for (i, weight) in weights.iter().enumerate() {
            if at < *weight {
                chosen = i;
                break;
            }
            at -= weight;
        }
        counts[chosen] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sizes: &[usize], weights: &[f64], strategy: MixStrategy) -> Vec<usize> {
        mix(sizes, weights, strategy, 7).unwrap().iter().map(Vec::len).collect()
    }

    #[test]
    fn without_weights_datasets_take_turns() {
        assert_eq!(counts(&[5, 2, 9], &[], MixStrategy::Concat), [5, 2, 9]);
        assert_eq!(counts(&[5, 2, 9], &[], MixStrategy::Under), [2, 2, 2]);
        assert_eq!(counts(&[5, 2, 9], &[], MixStrategy::Over), [9, 9, 9]);
        let over = mix(&[2, 5], &[], MixStrategy::Over, 1).unwrap();
        assert_eq!(over[1], [0, 1, 2, 3, 4]);
        // Nothing is taken a third time before everything was taken twice.
        assert!(over[0] == [0, 0, 0, 1, 1] || over[0] == [0, 0, 1, 1, 1]);
    }

    #[test]
    fn weights_are_the_shares_of_the_draws() {
        let under = counts(&[1000, 1000], &[0.8, 0.2], MixStrategy::Under);
        assert_eq!(under[0], 1000);
        assert!((200..300).contains(&under[1]), "{under:?}");
        let over = counts(&[1000, 1000], &[4.0, 1.0], MixStrategy::Over);
        assert_eq!(over[1], 1000);
        assert!((3700..4300).contains(&over[0]), "{over:?}");
        let three = counts(&[1000, 1000, 1000], &[0.5, 0.3, 0.2], MixStrategy::Under);
        assert_eq!(three[0], 1000);
        assert!((520..680).contains(&three[1]) && (330..470).contains(&three[2]), "{three:?}");
        assert_eq!(
            mix(&[1000, 50], &[1.0, 1.0], MixStrategy::Under, 3),
            mix(&[1000, 50], &[1.0, 1.0], MixStrategy::Under, 3)
        );
        assert_ne!(
            mix(&[1000, 50], &[1.0, 1.0], MixStrategy::Under, 3),
            mix(&[1000, 50], &[1.0, 1.0], MixStrategy::Under, 4)
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for weights in [&[1.0][..], &[1.0, -1.0], &[1.0, 0.0], &[1.0, f64::INFINITY], &[1.0, f64::NAN]] {
            assert!(
                matches!(mix(&[3, 4], weights, MixStrategy::Under, 0), Err(PackError::Weights { .. })),
                "{weights:?}"
            );
        }
        let endless = mix(&[1000, 1000], &[1.0, 1e-9], MixStrategy::Over, 0);
        assert!(matches!(endless, Err(PackError::TooManySamples { .. })));
        assert!(mix(&[], &[], MixStrategy::Over, 0).unwrap().is_empty());
        assert!("interleave".parse::<MixStrategy>().is_err());
    }
}
