//! A batch of records → samples and counts. Runs on every thread; knows nothing of files or order.

use super::duplicates::{First, Mark};
use super::names::beginning;
use super::options::Options;
use crate::conversation::Conversation;
use crate::dataset::{Origin, Samples};
use crate::encode::{Encoded, Encoder, Scratch};
use crate::error::Result;
use crate::reasons::{Notice, Reason};
use crate::record::{self, Layout, Reading, Span};
use crate::template::{Kind, Learn, Rendered};
use crate::truncate;
use std::collections::BTreeMap;
use std::path::Path;

/// Counts by name.
pub type Counts = BTreeMap<String, u64>;

/// A record that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Its place.
    pub origin: Origin,
    /// Why.
    pub reason: Reason,
    /// The record as it was in the file.
    pub text: Box<str>,
    /// The earlier row with the same conversation.
    pub first: Option<First>,
}

/// What became of a batch of records of one part.
#[derive(Debug, Default)]
pub struct Batch {
    /// Number of the file, and of the part in it.
    pub part: (u32, u32),
    /// Bytes of all files read so far.
    pub bytes_read: u64,
    /// The samples that were kept.
    pub samples: Samples,
    /// The records that were not.
    pub dropped: Vec<Dropped>,
    /// Repairs, by name.
    pub repairs: Counts,
    /// Other things worth knowing, by name.
    pub notices: Counts,
    /// Keys without a meaning.
    pub ignored_keys: Counts,
    /// Samples that were truncated.
    pub truncated: Vec<Truncated>,
    /// Records that were kept: a record may become several samples.
    pub kept: u64,
    /// Tokens before truncation of every sample with supervised tokens.
    pub full_lengths: Vec<u32>,
}

impl Batch {
    /// Removes the rows and keeps the allocated memory.
    pub fn clear(&mut self) {
        self.samples.clear();
        self.dropped.clear();
        self.repairs.clear();
        self.notices.clear();
        self.ignored_keys.clear();
        self.truncated.clear();
        self.kept = 0;
        self.full_lengths.clear();
    }
}

/// Buffers that a thread reuses.
#[derive(Default)]
pub struct Workspace {
    scratch: Scratch,
    /// The last row that was kept.
    pub(super) encoded: Encoded,
}

/// What truncation removed from a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncated {
    /// The place of the record.
    pub origin: Origin,
    /// Tokens before.
    pub tokens: u64,
    /// Tokens removed.
    pub tokens_cut: u64,
    /// Turns that were removed entirely.
    pub turns_cut: u64,
}

/// Makes samples of records.
pub struct RowMaker<'a> {
    /// The options.
    pub options: &'a Options,
    /// Template and tokenizer.
    pub encoder: Encoder<'a>,
}

impl RowMaker<'_> {
    /// Makes samples of some records of one file, and adds them to the batch; `marks` is empty, or has one for each of
    /// them. The first JSON fault ends it.
    ///
    /// # Errors
    ///
    /// [`Error::Syntax`](crate::error::Error::Syntax) with the place in the file.
    pub fn make(
        &self,
        path: &Path,
        layout: &Layout,
        bytes: &[u8],
        (records, marks): (&[Span], &[Mark]),
        workspace: &mut Workspace,
        batch: &mut Batch,
    ) -> Result<()> {
        let file = batch.part.0;
        for (i, span) in records.iter().enumerate() {
            let text = span.text(path, bytes)?;
            let origin = Origin { file, row: span.row, line: span.line };
            let mark = marks.get(i);
            if let Some(first @ Some(_)) = mark.map(|m| m.first) {
                batch.dropped.push(Dropped { origin, reason: Reason::Duplicate, text: text.into(), first });
                continue;
            }
            let parsed = record::parse_as(text, layout, &self.options.variables)
                .map_err(|error| span.syntax_error(path, text, &error))?;
            for key in parsed.ignored_keys {
                count(&mut batch.ignored_keys, beginning(&key));
            }
            for column in parsed.missing_columns {
                let notice = format!("{}:{}", Notice::ColumnNotInRow.name(), beginning(&column));
                count(&mut batch.notices, &notice);
            }
            let question = mark.map(|m| m.question);
            match parsed
                .conversation
                .and_then(|conversation| self.row(&conversation, origin, question, workspace, batch))
            {
                Ok(()) => {
                    batch.kept += 1;
                    parsed.repairs.iter().for_each(|repair| count(&mut batch.repairs, repair.name()));
                }
                Err(reason) => batch.dropped.push(Dropped { origin, reason, text: text.into(), first: None }),
            }
        }
        Ok(())
    }

    /// Adds the samples of a row to the batch, all or none.
    fn row(
        &self,
        conversation: &Conversation<'_>,
        origin: Origin,
        question: Option<i64>,
        workspace: &mut Workspace,
        batch: &mut Batch,
    ) -> std::result::Result<(), Reason> {
        let samples = self.samples(conversation)?;
        if let [only] = samples.as_slice() {
            self.sample(only, origin, workspace, batch)?;
            batch.samples.push(&workspace.encoded, origin, question);
            return Ok(());
        }
        let mut made = Vec::with_capacity(samples.len());
        let mut apart = Batch::default();
        for sample in &samples {
            match self.sample(sample, origin, workspace, &mut apart) {
                Ok(()) => made.push(workspace.encoded.clone()),
                // Nothing of the whole may be left to learn where every answer has a sample of its own.
                Err(Reason::NothingToLearn) => {}
                Err(reason) => return Err(reason),
            }
        }
        if made.is_empty() {
            return Err(Reason::NothingToLearn);
        }
        made.iter().for_each(|encoded| batch.samples.push(encoded, origin, question));
        batch.truncated.append(&mut apart.truncated);
        batch.full_lengths.append(&mut apart.full_lengths);
        for (name, n) in apart.notices {
            *batch.notices.entry(name).or_default() += n;
        }
        Ok(())
    }

    /// Leaves the sample in `workspace.encoded`.
    fn sample(
        &self,
        rendered: &Rendered<'_>,
        origin: Origin,
        Workspace { scratch, encoded }: &mut Workspace,
        batch: &mut Batch,
    ) -> std::result::Result<(), Reason> {
        let told = self.encoder.encode_into(&rendered.turns, scratch, encoded);
        told.map_err(|problem| Reason::Untokenizable(problem.into()))?;
        if encoded.spans.is_empty() {
            return Err(Reason::NothingToLearn);
        }
        let full = encoded.ids.len();
        batch.full_lengths.push(full as u32);
        if full > self.options.cutoff_len {
            let Options { cutoff_len, truncation, mask_history, .. } = *self.options;
            let cut = truncate::truncate(&self.encoder, &rendered.turns, cutoff_len, truncation, mask_history)?;
            let (tokens_cut, turns_cut) = ((full - cut.encoded.ids.len()) as u64, cut.turns_cut as u64);
            batch.truncated.push(Truncated { origin, tokens: full as u64, tokens_cut, turns_cut });
            *encoded = cut.encoded;
        }
        rendered.notices.iter().for_each(|notice| count(&mut batch.notices, notice.name()));
        let (content, mut control, mut word) = (self.encoder.content(), false, false);
        let texts = rendered.turns.iter().flat_map(|t| &t.segments).filter(|s| s.content && s.kind == Kind::Text);
        for segment in texts.filter(|s| content.may_have_added(&s.text)) {
            control = control || content.has_control(&segment.text);
            word = word || content.has_word(&segment.text);
        }
        let found = [(control, Notice::ControlTokenKeptAsText), (word, Notice::AddedTokenInText)];
        found.iter().filter(|(there, _)| *there).for_each(|(_, notice)| count(&mut batch.notices, notice.name()));
        Ok(())
    }

    /// How records are to be read.
    pub(super) fn reading(&self) -> Reading {
        self.options.reading(self.encoder.template)
    }

    /// Renders a conversation as the options say: its samples, of which the last is the whole.
    ///
    /// # Errors
    ///
    /// The reason to drop the row.
    pub fn samples<'c>(&'c self, conversation: &'c Conversation<'_>) -> std::result::Result<Vec<Rendered<'c>>, Reason> {
        let Options { train_on_prompt, mask_history, enable_thinking, .. } = *self.options;
        let learn =
            Learn { prompts: train_on_prompt, last_answer_only: mask_history, without_thinking: !enable_thinking };
        self.encoder.samples(conversation, self.options.default_system.as_deref(), learn)
    }
}

fn count(counts: &mut Counts, name: &str) {
    match counts.get_mut(name) {
        Some(n) => *n += 1,
        None => {
            counts.insert(name.to_owned(), 1);
        }
    }
}
