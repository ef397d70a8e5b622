//! What a prepared dataset means for a run: what another cutoff would take, what each way of batching would cost.
//!
//! Everything is worked out from the stored lengths, in memory that does not grow with the data: of very many samples,
//! an even selection is looked at.

use crate::dataset::read_lengths;
use crate::error::{Error, Result};
use crate::pack::{EffectiveBatch, PackingStats, PlanOptions, effective_batches, padding};
use crate::prepare::Manifest;
use crate::stats::Loss;
use serde::Serialize;
use std::path::Path;

/// Cutoffs that people choose.
const CUTOFFS: [u64; 4] = [512, 1024, 2048, 4096];
/// Suggested cutoffs are multiples of this.
const STEP: u64 = 64;
/// Common effective batch sizes.
const BATCHES: [u32; 5] = [8, 16, 32, 64, 128];
/// More samples than this are not planned with: every n-th of them is.
const MOST_SAMPLES: u64 = 1 << 20;

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BatchingReport {
    /// Slightly above the 95th percentile of the lengths before truncation.
    pub suggested_cutoff: u64,
    /// What cutoffs take from the lengths before truncation, ascending.
    pub cutoffs: Vec<Loss>,
    /// Each way to batch.
    pub padding: Vec<PackingStats>,
    /// Samples of an update, and what comes of them.
    pub effective_batches: Vec<EffectiveBatch>,
    /// Samples that batching was worked out with; rows and updates stand for all.
    pub samples_planned: u64,
}

/// Samples of a prepared folder: a row may have become several.
fn samples_of(manifest: &Manifest) -> u64 {
    manifest.shards.iter().map(|shard| shard.rows).sum()
}

/// The report on a prepared folder; `options.mode` does not matter.
///
/// # Errors
///
/// [`Error::Artifact`] for a damaged folder, [`Error::Option`] for options that do not fit.
pub fn batching_report(folder: &Path, manifest: &Manifest, options: &PlanOptions) -> Result<BatchingReport> {
    with_samples(folder, manifest, options, MOST_SAMPLES)
}

/// The report worked out with at most `most` samples.
fn with_samples(folder: &Path, manifest: &Manifest, options: &PlanOptions, most: u64) -> Result<BatchingReport> {
    let step = samples_of(manifest).div_ceil(most).max(1);
    let (mut lengths, mut supervised) = (Vec::new(), Vec::new());
    let mut before = 0_u64;
    for shard in &manifest.shards {
        let (own_lengths, own_supervised) = read_lengths(folder, shard)?;
        let first = (before.next_multiple_of(step) - before) as usize;
        lengths.extend(own_lengths.into_iter().skip(first).step_by(step as usize));
        supervised.extend(own_supervised.into_iter().skip(first).step_by(step as usize));
        before += shard.rows;
    }
    let option = |error: crate::pack::PackError| Error::Option { problem: error.to_string() };
    let mut padding = padding(&lengths, &supervised, options).map_err(option)?;
    let mut batches = effective_batches(&lengths, &supervised, options, &BATCHES).map_err(option)?;
    let scale = samples_of(manifest) as f64 / lengths.len().max(1) as f64;
    let whole = |part: u64| (part as f64 * scale).round() as u64;
    if step > 1 {
        for fill in &mut padding {
            (fill.rows, fill.updates) = (whole(fill.rows), whole(fill.updates));
            fill.computed_tokens = (manifest.tokens as f64 / fill.real_share).round() as u64;
        }
        for batch in &mut batches {
            let rows = batch.rows_mean * batch.updates as f64;
            batch.updates = samples_of(manifest).div_ceil(u64::from(batch.samples));
            // By way of the sums: a last update that is not full weighs more in a selection.
            batch.rows_mean = rows * scale / batch.updates as f64;
            batch.tokens_mean = manifest.tokens as f64 / batch.updates as f64;
        }
    }
    let suggested_cutoff = suggestion(manifest);
    let longest = manifest.full_lengths.percentile(100);
    let mut cutoffs = vec![suggested_cutoff, manifest.cutoff_len as u64, longest];
    cutoffs.extend(CUTOFFS);
    cutoffs.sort_unstable();
    cutoffs.dedup();
    Ok(BatchingReport {
        suggested_cutoff,
        cutoffs: cutoffs.into_iter().map(|cutoff| manifest.full_lengths.loss_at(cutoff)).collect(),
        padding,
        effective_batches: batches,
        samples_planned: lengths.len() as u64,
    })
}

/// The guide's rule: the next multiple of 64 above the 95th percentile.
fn suggestion(manifest: &Manifest) -> u64 {
    (manifest.full_lengths.percentile(95) + 1).next_multiple_of(STEP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::Mode;
    use crate::prepare::prepare;

    #[test]
    fn an_even_selection_stands_for_all_samples() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data.jsonl");
        let row = |i: usize| format!(r#"{{"instruction": "{i}", "output": "{}"}}"#, "word ".repeat(1 + i * 7919 % 60));
        std::fs::write(&data, (0..1000).map(row).collect::<Vec<_>>().join("\n")).unwrap();
        let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tokenizer/tokenizer.json");
        let options = serde_json::json!({
            "data": [data], "tokenizer": tokenizer, "template": "qwen3", "cutoff_len": 256,
            "out": dir.path().join("out"),
        });
        let report = prepare(&serde_json::from_value(options).unwrap(), &mut |_, _, _| true).unwrap();
        let options = PlanOptions {
            mode: Mode::None,
            samples_per_update: 16,
            micro_batch_size: 4,
            max_tokens_per_row: 256,
            rows_per_update: 16,
            world_size: 1,
            seed: 0,
        };
        let all = with_samples(&report.path, &report.manifest, &options, 1000).unwrap();
        let some = with_samples(&report.path, &report.manifest, &options, 400).unwrap();
        assert_eq!((all.samples_planned, some.samples_planned), (1000, 334));
        assert_eq!((&all.cutoffs, all.suggested_cutoff), (&some.cutoffs, some.suggested_cutoff));
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 0.06;
        for (a, b) in all.padding.iter().zip(&some.padding) {
            assert!(near(a.real_share, b.real_share) && near(a.computed_tokens as f64, b.computed_tokens as f64));
            assert!(near(a.rows as f64, b.rows as f64), "{a:?} {b:?}");
        }
        for (a, b) in all.effective_batches.iter().zip(&some.effective_batches).take(4) {
            assert_eq!(a.updates, b.updates);
            assert!(near(a.rows_mean, b.rows_mean) && near(a.tokens_mean, b.tokens_mean), "{a:?} {b:?}");
        }
        let shard = report.path.join(&report.manifest.shards[0].file);
        let bytes = std::fs::read(&shard).unwrap();
        for damage in [&bytes[..40], &[0xff; 16][..]] {
            std::fs::write(&shard, damage).unwrap();
            assert!(batching_report(&report.path, &report.manifest, &options).is_err());
        }
    }
}
