//! What padding would cost: the share of computed tokens that are real, for each way to batch the same samples.

use super::error::PackError;
use super::plan::{EpochPlan, Mode, PlanOptions, plan_epoch};
use serde::Serialize;

/// One way to batch an epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PackingStats {
    /// The way.
    pub packing: &'static str,
    /// Forward passes.
    pub rows: u64,
    /// Steps of the optimizer.
    pub updates: u64,
    /// Tokens that the rows compute, padding included.
    pub computed_tokens: u64,
    /// Real tokens ÷ computed tokens.
    pub real_share: f64,
}

/// Optimizer steps of a given number of samples with exact packing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EffectiveBatch {
    /// Samples of an optimizer step, over all devices.
    pub samples: u32,
    /// Optimizer steps of an epoch.
    pub updates: u64,
    /// Rows of an optimizer step, on average.
    pub rows_mean: f64,
    /// Rows of the optimizer step with most of them.
    pub rows_max: u64,
    /// Tokens of an optimizer step, on average.
    pub tokens_mean: f64,
}

/// How full the rows of the first epoch are under each packing; `options.mode` is not used.
///
/// # Errors
///
/// Those of [`plan_epoch`].
pub fn padding(lengths: &[u32], supervised: &[u32], options: &PlanOptions) -> Result<Vec<PackingStats>, PackError> {
    let real: u64 = lengths.iter().map(|&n| u64::from(n)).sum();
    let fill = |mode: Mode| {
        let plan = plan_epoch(lengths, supervised, &PlanOptions { mode, ..*options }, 0)?;
        let padded = matches!(mode, Mode::None | Mode::Bucketed);
        let computed_tokens = if padded { padded_tokens(&plan, lengths) } else { real };
        Ok(PackingStats {
            packing: mode.name(),
            rows: rows(&plan.row_offsets).count() as u64,
            updates: plan.tokens.len() as u64,
            computed_tokens,
            real_share: real as f64 / computed_tokens.max(1) as f64,
        })
    };
    [Mode::None, Mode::Bucketed, Mode::Exact, Mode::Dense].into_iter().map(fill).collect()
}

/// Updates and rows of the first epoch for some effective batch sizes, packed exactly.
///
/// # Errors
///
/// Those of [`plan_epoch`].
pub fn effective_batches(
    lengths: &[u32],
    supervised: &[u32],
    options: &PlanOptions,
    sizes: &[u32],
) -> Result<Vec<EffectiveBatch>, PackError> {
    let batch = |&samples: &u32| {
        let options = PlanOptions { mode: Mode::Exact, samples_per_update: samples, ..*options };
        let plan = plan_epoch(lengths, supervised, &options, 0)?;
        let bounds = plan.update_offsets.windows(2).map(|w| &plan.row_offsets[w[0] as usize..=w[1] as usize]);
        let counts: Vec<u64> = bounds.map(|offsets| rows(offsets).count() as u64).collect();
        let updates = counts.len() as u64;
        Ok(EffectiveBatch {
            samples,
            updates,
            rows_mean: counts.iter().sum::<u64>() as f64 / updates.max(1) as f64,
            rows_max: counts.iter().copied().max().unwrap_or(0),
            tokens_mean: plan.tokens.iter().sum::<i64>() as f64 / updates.max(1) as f64,
        })
    };
    sizes.iter().map(batch).collect()
}

/// The rows that are not empty: those only even out the devices.
fn rows(row_offsets: &[i64]) -> impl Iterator<Item = std::ops::Range<usize>> {
    row_offsets.windows(2).filter(|w| w[0] < w[1]).map(|w| w[0] as usize..w[1] as usize)
}

fn padded_tokens(plan: &EpochPlan, lengths: &[u32]) -> u64 {
    let padded = |row: std::ops::Range<usize>| {
        let samples = &plan.sample_ids[row];
        let longest = samples.iter().map(|&id| u64::from(lengths[id as usize])).max();
        longest.unwrap_or(0) * samples.len() as u64
    };
    rows(&plan.row_offsets).map(padded).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: PlanOptions = PlanOptions {
        mode: Mode::None,
        samples_per_update: 4,
        micro_batch_size: 2,
        max_tokens_per_row: 10,
        rows_per_update: 4,
        world_size: 1,
        seed: 0,
    };

    #[test]
    fn pads_are_counted() {
        // Sorted inside an optimizer step, equal lengths share a row: nothing is padded.
        let lengths = [3, 3, 5, 5];
        let fills = padding(&lengths, &[1; 4], &OPTIONS).unwrap();
        let names: Vec<_> = fills.iter().map(|f| f.packing).collect();
        assert_eq!(names, ["none", "bucketed", "exact", "dense"]);
        assert_eq!((fills[1].computed_tokens, fills[1].rows, fills[1].updates), (16, 2, 1));
        assert_eq!((fills[2].rows, fills[3].rows), (2, 2));
        assert!(fills.iter().all(|f| (f.real_share - 16.0 / f.computed_tokens as f64).abs() < 1e-12));
        // Two devices, one row: the empty row of the other is not a forward pass.
        let fills = padding(&[4, 4], &[1; 2], &PlanOptions { world_size: 2, ..OPTIONS }).unwrap();
        assert_eq!(fills.iter().map(|f| f.rows).collect::<Vec<_>>(), [1, 2, 2, 1]);
    }

    #[test]
    fn larger_batches_need_fewer_rows_a_sample() {
        let lengths: Vec<u32> = (0..100).map(|i| 1 + i * 37 % 9).collect();
        let batches = effective_batches(&lengths, &lengths, &OPTIONS, &[1, 8, 64]).unwrap();
        assert_eq!(batches.iter().map(|b| b.updates).collect::<Vec<_>>(), [100, 13, 2]);
        assert!((batches[0].rows_mean - 1.0).abs() < 1e-12);
        let each: Vec<f64> = batches.iter().map(|b| b.rows_mean * b.updates as f64).collect();
        assert!(each[0] > each[1] && each[1] > each[2]);
        let tokens: u32 = lengths.iter().sum();
        assert!((batches[2].tokens_mean * 2.0 - f64::from(tokens)).abs() < 1e-9);
    }
}
