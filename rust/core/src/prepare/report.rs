//! What became of every row and token.

use super::options::Source;
use super::rows::{Batch, Counts, Dropped};
use crate::dataset::ShardEntry;
use crate::stats::{Lengths, Summary};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Rows shown for each reason; all of them stand in dropped.jsonl.
const EXAMPLES: u64 = 5;
/// Names that a table of counts spells out; later ones are counted together.
const LARGEST_TABLE: usize = 100;

/// A dropped row, as reports show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct DroppedRow {
    pub file: PathBuf,
    pub line: u64,
    pub row: u64,
    pub reason: String,
}

/// What is stored as manifest.json: equal inputs give equal bytes.
///
/// `rows_read` = `rows_kept` + the sum of `rows_dropped`; tokens before truncation = `tokens` + `tokens_cut`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Manifest {
    pub format_version: u32,
    pub fingerprint: String,
    pub format: String,
    pub template: String,
    pub cutoff_len: usize,
    pub rows_read: u64,
    pub rows_kept: u64,
    pub rows_dropped: Counts,
    pub dropped_examples: Vec<DroppedRow>,
    pub repairs: Counts,
    pub notices: Counts,
    pub ignored_keys: Counts,
    pub tokens: u64,
    pub supervised_tokens: u64,
    pub rows_truncated: u64,
    pub tokens_cut: u64,
    pub turns_cut: u64,
    pub lengths: Summary,
    pub sources: Vec<Source>,
    pub shards: Vec<ShardEntry>,
}

/// The engine that ran, and why if it was not the fast one.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct EngineReport {
    pub name: String,
    pub reason: Option<String>,
}

/// The answer to one call of prepare.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Report {
    pub path: PathBuf,
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Whether the folder was there already.
    pub reused: bool,
    pub engine: EngineReport,
    /// Wall time by stage.
    pub seconds: BTreeMap<&'static str, f64>,
}

/// Adds up batches.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) manifest: Manifest,
    lengths: Lengths,
    /// dropped.jsonl.
    pub(super) dropped: Vec<u8>,
}

impl Tally {
    pub(super) fn add(&mut self, batch: &Batch, sources: &[Source]) {
        let m = &mut self.manifest;
        m.rows_read += (batch.samples.len() + batch.dropped.len()) as u64;
        m.rows_kept += batch.samples.len() as u64;
        m.rows_truncated += batch.truncated.rows;
        m.tokens_cut += batch.truncated.tokens;
        m.turns_cut += batch.truncated.turns;
        for (sample, _) in &batch.samples {
            m.tokens += sample.ids.len() as u64;
            m.supervised_tokens += sample.supervised() as u64;
            self.lengths.add(sample.ids.len());
        }
        merge(&mut m.repairs, &batch.repairs);
        merge(&mut m.notices, &batch.notices);
        merge(&mut m.ignored_keys, &batch.ignored_keys);
        for dropped in &batch.dropped {
            self.drop_row(dropped, sources);
        }
    }

    fn drop_row(&mut self, dropped: &Dropped, sources: &[Source]) {
        let row = DroppedRow {
            file: sources.get(dropped.origin.file as usize).map(|s| s.path.clone()).unwrap_or_default(),
            line: dropped.origin.line,
            row: dropped.origin.row,
            reason: dropped.reason.clone(),
        };
        if let Ok(line) = serde_json::to_vec(&row) {
            self.dropped.extend(line);
            self.dropped.push(b'\n');
        }
        let count = named(&mut self.manifest.rows_dropped, &row.reason);
        *count += 1;
        if *count <= EXAMPLES {
            self.manifest.dropped_examples.push(row);
        }
    }

    pub(super) fn finish(mut self) -> (Manifest, Vec<u8>) {
        self.manifest.lengths = self.lengths.summary();
        (self.manifest, self.dropped)
    }
}

fn merge(into: &mut Counts, from: &Counts) {
    for (name, n) in from {
        *named(into, name) += n;
    }
}

/// The count of a name. Names that come from the data (roles, keys) must not make the report as large as the data.
fn named<'c>(counts: &'c mut Counts, name: &str) -> &'c mut u64 {
    let name = match name.split_once(':') {
        _ if counts.len() < LARGEST_TABLE || counts.contains_key(name) => name.to_owned(),
        Some((class, _)) => format!("{class}:…"),
        None => "…".to_owned(),
    };
    counts.entry(name).or_default()
}
