//! What became of every row and token.

use super::options::Source;
use super::rejected::{self, DroppedRow, FirstRow};
use super::rows::{Batch, Counts, Dropped, Truncated};
use crate::dataset::{Origin, ShardEntry};
use crate::stats::{Lengths, Summary};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Rows shown for each reason; all of them stand in rejected.jsonl.
const EXAMPLES: usize = 5;
/// Truncated rows shown: those that lost most.
const MOST_CUT: usize = 10;
/// Names that a table of counts spells out; later ones are counted together.
const LARGEST_TABLE: usize = 100;

/// A row that was cut, as reports show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct TruncatedRow {
    pub file: PathBuf,
    pub line: u64,
    pub row: u64,
    pub tokens: u64,
    pub tokens_cut: u64,
    pub turns_cut: u64,
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
    pub most_cut: Vec<TruncatedRow>,
    pub lengths: Summary,
    /// Before truncation; rows that truncation drops are counted here too.
    pub full_lengths: Lengths,
    pub sources: Vec<Source>,
    pub shards: Vec<ShardEntry>,
}

/// The engine that tokenized, if any did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct EngineReport {
    /// Its name; `None` where nothing had to be tokenized.
    pub name: Option<&'static str>,
    /// Why it was not the fast one, or why none was needed.
    pub reason: Option<String>,
}

impl EngineReport {
    /// Of work that needed no tokenizer.
    pub(super) fn not_needed(reason: &str) -> Self {
        EngineReport { name: None, reason: Some(reason.to_owned()) }
    }
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
    /// Files that were damaged and made again: shards, or the manifest and with it all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remade: Vec<String>,
    /// Where a folder whose manifest was damaged is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<PathBuf>,
    pub engine: EngineReport,
    /// Wall time by stage.
    pub seconds: BTreeMap<&'static str, f64>,
}

/// The answer to the making of one share.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ShareReport {
    /// The folder that the parts are in: the prepared data itself, if it was there already.
    pub path: PathBuf,
    /// Number and count of the shares.
    pub share: (u32, u32),
    /// Parts that exist now, whichever process made them.
    pub parts: usize,
    pub engine: EngineReport,
    pub seconds: BTreeMap<&'static str, f64>,
}

/// Adds up batches, and tallies of other parts: in file order, so that equal inputs give equal reports.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    manifest: Manifest,
    lengths: Lengths,
}

impl Tally {
    /// Adds a batch; its dropped rows are appended to `rejected` as lines of rejected.jsonl.
    pub fn add(&mut self, batch: &Batch, sources: &[Source], rejected: &mut Vec<u8>) {
        let m = &mut self.manifest;
        m.rows_read += batch.kept + batch.dropped.len() as u64;
        m.rows_kept += batch.kept;
        for (length, supervised) in batch.samples.lengths() {
            m.tokens += length as u64;
            m.supervised_tokens += supervised as u64;
            self.lengths.add(length);
        }
        batch.full_lengths.iter().for_each(|&n| m.full_lengths.add(n as usize));
        merge(&mut m.repairs, &batch.repairs);
        merge(&mut m.notices, &batch.notices);
        merge(&mut m.ignored_keys, &batch.ignored_keys);
        for cut in &batch.truncated {
            self.cut_row(cut, sources);
        }
        for dropped in &batch.dropped {
            self.drop_row(dropped, sources, rejected);
        }
    }

    /// Adds what another part of the same input came to; its rows stand behind those counted so far.
    pub fn append(&mut self, other: Self) {
        let (m, o) = (&mut self.manifest, other.manifest);
        m.rows_read += o.rows_read;
        m.rows_kept += o.rows_kept;
        m.tokens += o.tokens;
        m.supervised_tokens += o.supervised_tokens;
        m.rows_truncated += o.rows_truncated;
        m.tokens_cut += o.tokens_cut;
        m.turns_cut += o.turns_cut;
        m.full_lengths.append(&o.full_lengths);
        merge(&mut m.repairs, &o.repairs);
        merge(&mut m.notices, &o.notices);
        merge(&mut m.ignored_keys, &o.ignored_keys);
        merge(&mut m.rows_dropped, &o.rows_dropped);
        for row in o.dropped_examples {
            self.show_dropped(row);
        }
        for row in o.most_cut {
            self.show_cut(row);
        }
        self.lengths.append(&other.lengths);
    }

    /// The sums as a manifest; what identifies the result is still to be filled in.
    #[must_use]
    pub fn finish(mut self) -> Manifest {
        self.manifest.lengths = self.lengths.summary();
        self.manifest
    }

    fn drop_row(&mut self, dropped: &Dropped, sources: &[Source], rejected: &mut Vec<u8>) {
        let Dropped { origin, reason, text, first } = dropped;
        let first = first.map(|first| FirstRow { file: file(sources, first.file), row: first.row });
        let Origin { line, row, .. } = *origin;
        let row = DroppedRow { file: file(sources, origin.file), line, row, reason: reason.clone(), first };
        rejected::write(&row, text, rejected);
        *named(&mut self.manifest.rows_dropped, &reason.to_string()) += 1;
        self.show_dropped(row);
    }

    fn show_dropped(&mut self, row: DroppedRow) {
        let examples = &mut self.manifest.dropped_examples;
        if examples.len() < EXAMPLES * LARGEST_TABLE
            && examples.iter().filter(|e| e.reason == row.reason).count() < EXAMPLES
        {
            examples.push(row);
        }
    }

    fn cut_row(&mut self, cut: &Truncated, sources: &[Source]) {
        let m = &mut self.manifest;
        m.rows_truncated += 1;
        m.tokens_cut += cut.tokens_cut;
        m.turns_cut += cut.turns_cut;
        let Truncated { origin, tokens, tokens_cut, turns_cut } = *cut;
        if m.most_cut.len() == MOST_CUT && m.most_cut.last().is_some_and(|least| least.tokens_cut >= tokens_cut) {
            return;
        }
        let (line, row) = (origin.line, origin.row);
        self.show_cut(TruncatedRow { file: file(sources, origin.file), line, row, tokens, tokens_cut, turns_cut });
    }

    /// Of rows that lost as much, the earlier one is shown.
    fn show_cut(&mut self, row: TruncatedRow) {
        let most = &mut self.manifest.most_cut;
        let place = most.partition_point(|other| other.tokens_cut >= row.tokens_cut);
        if place < MOST_CUT {
            most.insert(place, row);
            most.truncate(MOST_CUT);
        }
    }
}

fn file(sources: &[Source], number: u32) -> PathBuf {
    sources.get(number as usize).map(|s| s.path.clone()).unwrap_or_default()
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
