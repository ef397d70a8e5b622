//! One input file while it is read: its records, chunk by chunk, with what has to be known of them before they are encoded.

use super::duplicates::{Duplicates, Mark};
use super::names::{KEYS_SHOWN, beginning};
use super::options::Options;
use super::unknown_format;
use crate::error::{Error, Result};
use crate::record::{self, Chunk, Format, Layout, Reading, reader::Reader};
use std::path::Path;
use std::sync::Arc;

/// Records that are looked at to learn a file's format.
const PROBED_RECORDS: usize = 16;
/// Their keys that are looked at to guess what they are: a file may be one object with a key for each record.
const KEYS: usize = 100;

/// One input file while it is read.
pub(super) struct Records<'a> {
    options: &'a Options,
    path: &'a Path,
    reader: Reader,
    /// How the records are laid out; its format is known once there was a record.
    pub(super) layout: Arc<Layout>,
}

/// Some records that follow each other.
pub(super) struct Portion {
    pub(super) chunk: Chunk,
    /// Of each record, if rows are compared.
    pub(super) marks: Vec<Mark>,
    /// Whether the file continues with rows that are not wanted.
    pub(super) is_cut: bool,
}

impl<'a> Records<'a> {
    /// Opens an input of the options.
    pub(super) fn open(options: &'a Options, file: usize, reading: Reading) -> Result<Self> {
        let input = &options.data[file];
        let (path, layout) = (input.shown(), Arc::new(Layout { reading, ..options.layout(input)? }));
        Ok(Self { options, path, reader: Reader::open_as(&input.path, path)?, layout })
    }

    /// The next records, of those before row `end`; `None` at the end of the file.
    pub(super) fn next(&mut self, end: u64, duplicates: Option<&mut Duplicates>) -> Result<Option<Portion>> {
        let Some(chunk) = self.reader.next() else { return Ok(None) };
        let mut chunk = chunk?;
        let whole = chunk.records.len();
        chunk.records.truncate(chunk.records.partition_point(|r| r.row < end));
        if self.layout.format.is_none() {
            let format = Some(detect(self.path, &chunk, &self.layout)?);
            self.layout = Arc::new(Layout { format, ..(*self.layout).clone() });
        }
        let marks = match duplicates {
            None => Vec::new(),
            Some(duplicates) => duplicates.mark(&chunk, self.path, &self.layout, &self.options.variables)?,
        };
        let is_cut = chunk.records.len() < whole;
        Ok(Some(Portion { chunk, marks, is_cut }))
    }

    /// About how far the file is read.
    pub(super) fn bytes_read(&self) -> u64 {
        self.reader.bytes_read()
    }

    /// Hash of the file, once its last records were handed over.
    pub(super) fn digest(&self) -> blake3::Hash {
        self.reader.digest()
    }
}

/// The format of a file, from its first records.
fn detect(path: &Path, chunk: &Chunk, layout: &Layout) -> Result<Format> {
    let alone = chunk.records.len() == 1;
    let first = chunk.records.first().map_or(Ok(""), |span| span.text(path, &chunk.bytes))?;
    if alone && unknown_format::is_table(first) {
        return Err(Error::File {
            path: path.to_path_buf(),
            problem: "is a table by columns: one record with a list, or numbered values, for each key".to_owned(),
            hint:
                "write one record a row; in Python: pandas.read_json(FILE).to_json(\"data.jsonl\", orient=\"records\", \
                   lines=True)"
                    .to_owned(),
        });
    }
    let mut keys: Vec<String> = Vec::new();
    for span in chunk.records.iter().take(PROBED_RECORDS) {
        let text = span.text(path, &chunk.bytes)?;
        let found = record::detect(text, layout).map_err(|error| span.syntax_error(path, text, &error))?;
        // `prompt` beside `output` would be a question that nothing reads.
        let unread = found.answer_alone.filter(|_| unknown_format::has_question(&found.others));
        if let (Some(format), None) = (found.format, &unread) {
            return Ok(format);
        }
        let new: Vec<_> =
            found.others.into_iter().chain(unread).filter(|k| !keys.contains(k)).take(KEYS - keys.len()).collect();
        keys.extend(new);
    }
    let shown: Vec<_> = keys.iter().take(KEYS_SHOWN).map(|key| beginning(key)).collect();
    let more = if keys.len() > shown.len() { " and others" } else { "" };
    let found = if keys.is_empty() { "no keys".to_owned() } else { format!("the keys {}{more}", shown.join(", ")) };
    Err(Error::File {
        path: path.to_path_buf(),
        problem: format!("is in no known format: its first records have {found}"),
        hint: unknown_format::hint(&path.file_name().unwrap_or_default().to_string_lossy(), first, alone, &keys),
    })
}
