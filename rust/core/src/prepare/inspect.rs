//! Inspection of single rows before anything is prepared: what each is read as, what the model would see of it, or why it
//! would be dropped.
//!
//! A row goes through [`RowMaker::make`], so the result is that of a preparation.

use super::duplicates::{Duplicates, Mark};
use super::options::{Deduplicate, Options};
use super::progress::Tick;
use super::records::{Portion, Records};
use super::rejected::FirstRow;
use super::rows::{Batch, RowMaker, Workspace};
use crate::conversation::Conversation;
use crate::encode::{Encoder, Span as Learned};
use crate::error::{Error, Result};
use crate::reasons::Reason;
use crate::record::{self, Chunk, Format, Layout, Span};
use crate::template::{Kind, Segment};
use crate::tokenizer::Tokenizer;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One row, and the sample it would become.
#[derive(Debug, Clone, Serialize)]
pub struct InspectedRow {
    /// Its file.
    pub file: PathBuf,
    /// 0-based row.
    pub row: u64,
    /// 1-based line.
    pub line: u64,
    /// The format of its file.
    pub format: &'static str,
    /// The record as it is in the file.
    pub record: String,
    /// The dialogue that it was read as; none if it could not be read.
    pub conversation: Option<Value>,
    /// The rendered dialogue, before it is truncated.
    pub text: Vec<Written>,
    /// What was repaired in it.
    pub repairs: Vec<String>,
    /// Other notices.
    pub notices: Vec<String>,
    /// Keys without a meaning.
    pub ignored_keys: Vec<String>,
    /// Tokens before it is truncated.
    pub full_length: u64,
    /// Tokens that truncation removes.
    pub tokens_cut: u64,
    /// Turns that truncation removes entirely.
    pub turns_cut: u64,
    /// The ids that are kept; empty for a row that would be dropped.
    pub input_ids: Vec<u32>,
    /// Its supervised spans.
    pub spans: Vec<Learned>,
    /// Why it would be dropped.
    pub dropped: Option<Refusal>,
}

/// A piece of a rendered dialogue.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Written {
    pub kind: Kind,
    pub text: String,
    pub learned: bool,
}

/// Why a row would be dropped.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Refusal {
    pub reason: Reason,
    /// The earlier row with the same conversation.
    pub first: Option<FirstRow>,
}

/// Inspects some rows of one of the inputs, in the given order. The file is read up to the last of them; the files
/// before it only if rows are compared with theirs. `max_samples` is ignored.
///
/// # Errors
///
/// Any [`Error`], as in a preparation, and [`Error::Option`] for a row that does not exist.
pub fn inspect(options: &Options, file: usize, rows: &[u64], tick: &mut Tick<'_>) -> Result<Vec<InspectedRow>> {
    let Some(input) = options.data.get(file) else {
        return Err(Error::Option { problem: format!("file {file} is not among {}", options.data.len()) });
    };
    let tokenizer = Tokenizer::load(&options.tokenizer, options.engine, options.cache.as_deref())?;
    let template = options.chat_template()?;
    let encoder = Encoder::new(&template, &tokenizer, options.eos_token.as_deref())?;
    let maker = RowMaker { options, encoder };
    let compared = options.deduplicate == Deduplicate::Exact;
    let mut duplicates = compared.then(|| Duplicates::new(options.thread_count())).transpose()?;
    let mut found = BTreeMap::new();
    let mut there = 0;
    for number in if compared { 0..=file } else { file..=file } {
        let mut records = Records::open(options, number, options.reading(&template))?;
        if let Some(duplicates) = &mut duplicates {
            duplicates.next_file();
        }
        while let Some(portion) = records.next(u64::MAX, duplicates.as_mut())? {
            if !tick("reading", records.bytes_read(), 0) {
                return Err(Error::Interrupted { kept: None });
            }
            if number < file {
                continue;
            }
            let Portion { chunk, marks, .. } = portion;
            for (i, span) in chunk.records.iter().enumerate().filter(|(_, span)| rows.contains(&span.row)) {
                let mark = marks.get(i).copied().unwrap_or_default();
                found.insert(span.row, inspect_row(&maker, file, &records.layout, &chunk, span, mark)?);
            }
            there = chunk.records.last().map_or(there, |last| last.row + 1);
            if rows.iter().all(|&row| row < there) {
                break;
            }
        }
    }
    let one = |row: &u64| {
        found.get(row).cloned().ok_or_else(|| Error::Option {
            problem: match there {
                0 => format!("`{}` has no row {row}: it holds no records", input.shown().display()),
                _ => format!("`{}` has no row {row}: it has {there}, from 0 to {}", input.shown().display(), there - 1),
            },
        })
    };
    rows.iter().map(one).collect()
}

fn inspect_row(
    maker: &RowMaker<'_>,
    file: usize,
    layout: &Layout,
    chunk: &Chunk,
    span: &Span,
    mark: Mark,
) -> Result<InspectedRow> {
    let options = maker.options;
    let path = options.data[file].shown();
    let (mut batch, mut workspace) = (Batch::default(), Workspace::default());
    batch.part.0 = file as u32;
    maker.make(path, layout, &chunk.bytes, (&[*span], &[mark]), &mut workspace, &mut batch)?;
    let text = span.text(path, &chunk.bytes)?;
    let parsed =
        record::parse_as(text, layout, &options.variables).map_err(|error| span.syntax_error(path, text, &error))?;
    let conversation = parsed.conversation.ok();
    let dropped = batch.dropped.pop().map(|dropped| Refusal {
        reason: dropped.reason,
        first: dropped.first.map(|f| FirstRow { file: options.data[f.file as usize].shown().into(), row: f.row }),
    });
    let kept = if dropped.is_none() { std::mem::take(&mut workspace.encoded) } else { Default::default() };
    let cut = batch.truncated.last();
    Ok(InspectedRow {
        file: path.to_path_buf(),
        row: span.row,
        line: span.line,
        record: text.to_owned(),
        format: layout.format.map_or("auto", Format::name),
        text: conversation.as_ref().map_or_else(Vec::new, |conversation| written(maker, conversation)),
        conversation: conversation.as_ref().and_then(|conversation| serde_json::to_value(conversation).ok()),
        repairs: batch.repairs.into_keys().collect(),
        notices: batch.notices.into_keys().collect(),
        ignored_keys: batch.ignored_keys.into_keys().collect(),
        full_length: batch.full_lengths.last().copied().unwrap_or(0).into(),
        tokens_cut: cut.map_or(0, |cut| cut.tokens_cut),
        turns_cut: cut.map_or(0, |cut| cut.turns_cut),
        input_ids: kept.ids,
        spans: kept.spans,
        dropped,
    })
}

/// The output of the template; empty if it refuses the conversation, which is then the reason to drop the row.
fn written(maker: &RowMaker<'_>, conversation: &Conversation<'_>) -> Vec<Written> {
    let Ok(samples) = maker.samples(conversation) else { return Vec::new() };
    let eos = maker.options.eos_token.as_deref().unwrap_or_default();
    // The whole is the last of them.
    let segments = samples.last().into_iter().flat_map(|rendered| &rendered.turns).flat_map(|turn| &turn.segments);
    let write = |segment: &Segment<'_>| {
        let text = if segment.kind == Kind::Control && segment.text.is_empty() { eos } else { &segment.text };
        Written { kind: segment.kind, text: text.to_owned(), learned: segment.learned }
    };
    segments.map(write).collect()
}
