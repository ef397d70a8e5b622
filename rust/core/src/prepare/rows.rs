//! A batch of records → samples and counts. Runs on every thread; knows nothing of files or order.

use super::options::Options;
use crate::conversation::Conversation;
use crate::dataset::Origin;
use crate::encode::{Encoded, Encoder};
use crate::error::{Error, Result};
use crate::record::{self, Format, reader::Span};
use crate::template::{Kind, Learn, Rendered};
use crate::truncate;
use std::collections::BTreeMap;
use std::path::Path;

/// Named counts, in the order of their names.
pub type Counts = BTreeMap<String, u64>;

/// A record that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Where it stands.
    pub origin: Origin,
    /// Why.
    pub reason: String,
    /// The record as it stood in the file.
    pub text: Box<str>,
}

/// What became of a batch of records.
#[derive(Debug, Default)]
pub struct Batch {
    /// The samples that were kept.
    pub samples: Vec<(Encoded, Origin)>,
    /// The records that were not.
    pub dropped: Vec<Dropped>,
    /// Repairs, by name.
    pub repairs: Counts,
    /// Other things worth knowing, by name.
    pub notices: Counts,
    /// Keys without a meaning.
    pub ignored_keys: Counts,
    /// Samples that were cut.
    pub truncated: Vec<Truncated>,
    /// Tokens before truncation of every record that there was something to learn from.
    pub full_lengths: Vec<u32>,
}

/// What truncation took from a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncated {
    /// Where the record stands.
    pub origin: Origin,
    /// Tokens before.
    pub tokens: u64,
    /// Tokens lost.
    pub tokens_cut: u64,
    /// Turns of which nothing is left.
    pub turns_cut: u64,
}

/// All that a record meets on its way.
pub struct RowMaker<'a> {
    /// The options.
    pub options: &'a Options,
    /// Template and tokenizer.
    pub encoder: Encoder<'a>,
}

impl RowMaker<'_> {
    /// Makes samples of the records of one file. The first JSON fault ends it.
    ///
    /// # Errors
    ///
    /// [`Error::Syntax`] with the place in the file.
    pub fn make(
        &self,
        path: &Path,
        file: u32,
        format: Option<Format>,
        bytes: &[u8],
        records: &[Span],
    ) -> Result<Batch> {
        let mut batch = Batch::default();
        for span in records {
            let text = text_of(path, bytes, span)?;
            let origin = Origin { file, row: span.row, line: span.line };
            let parsed =
                record::parse(text, format, &self.options.variables).map_err(|error| syntax(path, span, &error))?;
            for key in parsed.ignored_keys {
                count(&mut batch.ignored_keys, &key);
            }
            let made = parsed.conversation.map_err(|reason| reason.to_string());
            match made.and_then(|conversation| self.sample(&conversation, origin, &mut batch)) {
                Ok(sample) => {
                    parsed.repairs.iter().for_each(|name| count(&mut batch.repairs, name));
                    batch.samples.push((sample, origin));
                }
                Err(reason) => batch.dropped.push(Dropped { origin, reason, text: text.into() }),
            }
        }
        Ok(batch)
    }

    fn sample(
        &self,
        conversation: &Conversation<'_>,
        origin: Origin,
        batch: &mut Batch,
    ) -> std::result::Result<Encoded, String> {
        let rendered = self.render(conversation);
        let encoded = self.encoder.encode(&rendered.turns).map_err(|problem| format!("untokenizable:{problem}"))?;
        if encoded.spans.is_empty() {
            return Err("nothing_to_learn".to_owned());
        }
        let full = encoded.ids.len();
        batch.full_lengths.push(full as u32);
        let encoded = if full > self.options.cutoff_len {
            let Options { cutoff_len, truncation, mask_history, .. } = *self.options;
            let cut = truncate::truncate(&self.encoder, &rendered.turns, cutoff_len, truncation, mask_history)?;
            let (tokens_cut, turns_cut) = ((full - cut.encoded.ids.len()) as u64, cut.turns_cut as u64);
            batch.truncated.push(Truncated { origin, tokens: full as u64, tokens_cut, turns_cut });
            cut.encoded
        } else {
            encoded
        };
        rendered.notices.iter().for_each(|name| count(&mut batch.notices, name));
        let mut content = rendered.turns.iter().flat_map(|t| &t.segments).filter(|s| s.content && s.kind == Kind::Text);
        if content.any(|s| self.encoder.tokenizer.has_lookalike(&s.text)) {
            count(&mut batch.notices, "control_token_kept_as_text");
        }
        Ok(encoded)
    }

    /// Renders a conversation as the options say.
    #[must_use]
    pub fn render<'c>(&'c self, conversation: &'c Conversation<'_>) -> Rendered<'c> {
        let learn = Learn { prompts: self.options.train_on_prompt, last_answer_only: self.options.mask_history };
        self.encoder.template.render(conversation, self.options.default_system.as_deref(), learn)
    }
}

/// The text of a record.
///
/// # Errors
///
/// [`Error::Syntax`] where it is not UTF-8.
pub(super) fn text_of<'b>(path: &Path, bytes: &'b [u8], span: &Span) -> Result<&'b str> {
    let record = &bytes[span.start..span.end];
    std::str::from_utf8(record).map_err(|error| {
        let before = &record[..error.valid_up_to()];
        let line = span.line + memchr::memchr_iter(b'\n', before).count() as u64;
        let column = match memchr::memrchr(b'\n', before) {
            Some(at) => before.len() - at,
            None => span.column as usize + before.len(),
        };
        Error::Syntax {
            path: path.to_path_buf(),
            line,
            column: column as u64,
            problem: format!("row {}: these bytes are not UTF-8 text", span.row),
            hint: "save the file as UTF-8; an older Chinese file may be GB18030",
        }
    })
}

/// A JSON fault inside a record, with its place in the file.
pub(super) fn syntax(path: &Path, span: &Span, error: &serde_json::Error) -> Error {
    let first_line = error.line() <= 1;
    let message = error.to_string();
    let problem = message.split(" at line ").next().unwrap_or(&message);
    Error::Syntax {
        path: path.to_path_buf(),
        line: span.line + (error.line().max(1) - 1) as u64,
        column: if first_line { span.column + error.column().max(1) as u64 - 1 } else { error.column() as u64 },
        problem: format!("row {}: not valid JSON: {problem}", span.row),
        hint: "mend the file there; a file that begins with `{` is read as one JSON object a line",
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
