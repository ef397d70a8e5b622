//! What a prepared dataset means for a run: what another cutoff would take, what each way of batching would cost.
//!
//! Everything is worked out from the stored lengths, in memory that does not grow with the data: of very many samples,
//! an even selection is looked at.

use crate::dataset::ShardEntry;
use crate::error::{Error, Result};
use crate::pack::{EffectiveBatch, PackingStats, PlanOptions, effective_batches, padding};
use crate::prepare::Manifest;
use crate::stats::Loss;
use serde::Serialize;
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Cutoffs that people choose.
const CUTOFFS: [u64; 4] = [512, 1024, 2048, 4096];
/// Suggested cutoffs are multiples of this.
const STEP: u64 = 64;
/// Common effective batch sizes.
const BATCHES: [u32; 5] = [8, 16, 32, 64, 128];
/// More samples than this are not planned with: every n-th of them is.
const MOST_SAMPLES: u64 = 1 << 20;
/// The longest header of a shard that is believed.
const LONGEST_HEADER: u64 = 1 << 20;

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Review {
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

/// Reviews a prepared folder; `options.mode` does not matter.
///
/// # Errors
///
/// [`Error::Artifact`] for a damaged folder, [`Error::Option`] for options that do not fit.
pub fn review(folder: &Path, manifest: &Manifest, options: &PlanOptions) -> Result<Review> {
    look(folder, manifest, options, MOST_SAMPLES)
}

fn look(folder: &Path, manifest: &Manifest, options: &PlanOptions, most: u64) -> Result<Review> {
    let step = samples_of(manifest).div_ceil(most).max(1);
    let (mut lengths, mut supervised) = (Vec::new(), Vec::new());
    let mut before = 0_u64;
    for shard in &manifest.shards {
        let columns = Columns::read(folder, shard)?;
        let first = before.next_multiple_of(step) - before;
        for sample in (first..shard.rows).step_by(step as usize) {
            lengths.push(columns.length(sample as usize));
            supervised.push(columns.supervised(sample as usize));
        }
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
    Ok(Review {
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

/// The columns of a shard that lengths are made of.
struct Columns {
    offsets: Vec<i64>,
    span_offsets: Vec<i64>,
    spans: Vec<i32>,
}

impl Columns {
    fn read(folder: &Path, shard: &ShardEntry) -> Result<Self> {
        let path = folder.join(&shard.file);
        let damaged = |problem: &str| Error::Artifact {
            path: path.clone(),
            problem: format!("is damaged: {problem}"),
            hint: "delete the folder and run `prep` again",
        };
        let mut file = File::open(&path).map_err(Error::io("read", &path))?;
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(Error::io("read", &path))?;
        let length = u64::from_le_bytes(length);
        if length > LONGEST_HEADER {
            return Err(damaged("its header is too long"));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(Error::io("read", &path))?;
        let header: Value = serde_json::from_slice(&header).map_err(|e| damaged(&e.to_string()))?;
        let mut column = |name: &str, bytes: u64| {
            let range = &header[name]["data_offsets"];
            let (Some(begin), Some(end)) = (range[0].as_u64(), range[1].as_u64()) else {
                return Err(damaged(&format!("it has no column `{name}`")));
            };
            if end > shard.bytes || end < begin || (bytes > 0 && end - begin != bytes) {
                return Err(damaged(&format!("column `{name}` does not fit")));
            }
            let mut data = vec![0; (end - begin) as usize];
            let read = file.seek(SeekFrom::Start(8 + length + begin)).and_then(|_| file.read_exact(&mut data));
            read.map_err(Error::io("read", &path)).map(|()| data)
        };
        let offsets = wide(&column("sample_offsets", (shard.rows + 1) * 8)?);
        let span_offsets = wide(&column("span_offsets", (shard.rows + 1) * 8)?);
        let spans = column("spans", 0)?;
        let spans: Vec<i32> = spans.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
        let ascending = |offsets: &[i64], last: u64| {
            offsets.first() == Some(&0) && offsets.last() == Some(&(last as i64)) && offsets.is_sorted()
        };
        if !ascending(&offsets, shard.tokens) || !ascending(&span_offsets, spans.len() as u64 / 2) {
            return Err(damaged("its offsets do not fit its columns"));
        }
        Ok(Self { offsets, span_offsets, spans })
    }

    fn length(&self, sample: usize) -> u32 {
        (self.offsets[sample + 1] - self.offsets[sample]) as u32
    }

    fn supervised(&self, sample: usize) -> u32 {
        let spans = &self.spans[2 * self.span_offsets[sample] as usize..2 * self.span_offsets[sample + 1] as usize];
        spans.chunks_exact(2).map(|span| (span[1] - span[0]) as u32).sum()
    }
}

fn wide(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
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
        let all = look(&report.path, &report.manifest, &options, 1000).unwrap();
        let some = look(&report.path, &report.manifest, &options, 400).unwrap();
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
            assert!(review(&report.path, &report.manifest, &options).is_err());
        }
    }
}
