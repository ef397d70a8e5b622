//! Records cut out of a file: their bytes, and the place of each.

use super::mistakes;
use crate::error::{Error, Result};
use std::path::Path;

/// Some whole records and their places.
#[derive(Debug, Default)]
pub struct Chunk {
    /// The bytes of the records and what is between them.
    pub bytes: Vec<u8>,
    /// The records, in file order.
    pub records: Vec<Span>,
}

/// One record: a range of [`Chunk::bytes`], and its place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// 0-based number of the record in its file.
    pub row: u64,
    /// 1-based line of its first byte, in an archive that of the text inside; in Parquet the row counted from 1.
    pub line: u64,
    /// 1-based column of its first character.
    pub column: u64,
}

impl Span {
    /// The text of the record, given the bytes of its chunk; `path` names the file in errors.
    ///
    /// # Errors
    ///
    /// [`Error::Syntax`] where it is not UTF-8.
    pub fn text<'b>(&self, path: &Path, bytes: &'b [u8]) -> Result<&'b str> {
        let record = &bytes[self.start..self.end];
        std::str::from_utf8(record).map_err(|error| {
            let before = &record[..error.valid_up_to()];
            let line = self.line + memchr::memchr_iter(b'\n', before).count() as u64;
            let column = match memchr::memrchr(b'\n', before) {
                Some(at) => 1 + characters(&before[at + 1..]),
                None => self.column + characters(before),
            };
            Error::Syntax {
                path: path.to_path_buf(),
                line,
                column,
                row: Some(self.row),
                problem: "these bytes are not UTF-8 text".to_owned(),
                hint: "save the file as UTF-8; an older Chinese file may be GB18030",
            }
        })
    }

    /// A JSON fault inside the record with this text, with its place in the file.
    pub(crate) fn syntax_error(&self, path: &Path, text: &str, error: &serde_json::Error) -> Error {
        let first_line = error.line() <= 1;
        // The error counts bytes, and of the byte that it did not expect.
        let line = text.split('\n').nth(error.line().max(1) - 1).unwrap_or_default();
        let at = error.column().saturating_sub(1).min(line.len());
        let before = characters(&line.as_bytes()[..at]);
        let message = error.to_string();
        let own = message.split(" at line ").next().unwrap_or(&message);
        let (problem, hint) = match mistakes::of_record(error, line.get(at..).unwrap_or_default()) {
            Some(found) => (found.problem, found.hint),
            None => (own, "fix the file there; a file that begins with `{` is read as one JSON object per line"),
        };
        Error::Syntax {
            path: path.to_path_buf(),
            line: self.line + (error.line().max(1) - 1) as u64,
            column: if first_line { self.column + before } else { 1 + before },
            row: Some(self.row),
            problem: format!("not valid JSON: {problem}"),
            hint,
        }
    }
}

/// How many characters begin in these bytes of UTF-8.
pub(super) fn characters(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count() as u64
}
