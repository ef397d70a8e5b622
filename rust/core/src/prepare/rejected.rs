//! rejected.jsonl: every dropped row, as it was in the data, so that it can be fixed and prepared again.
//!
//! A row is its own record with one key more, `rejected`, which says why and where; no format gives that key a meaning,
//! so the fixed file is a data file like any other. What is not an object is under the key `record`.

use crate::error::{Error, Result};
use crate::reasons::Reason;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// The name of the file.
pub(super) const FILE: &str = "rejected.jsonl";
/// Size of the write buffer.
const BUFFER_BYTES: usize = 1 << 20;

/// A dropped row, as reports show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct DroppedRow {
    pub file: PathBuf,
    pub line: u64,
    pub row: u64,
    pub reason: Reason,
    /// The earlier row that a duplicate is equal to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<FirstRow>,
}

/// The earlier row that a duplicate is equal to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct FirstRow {
    pub file: PathBuf,
    pub row: u64,
}

/// Appends a row's line. `text` is JSON: a line break in it can only stand between its parts.
pub(super) fn write(row: &DroppedRow, text: &str, out: &mut Vec<u8>) {
    let label = serde_json::to_string(row).unwrap_or_default();
    let text = text.trim_ascii();
    let (between, rest, end) = match text.strip_prefix('{').map(without_label) {
        Some(rest) if rest.starts_with('}') => ("", rest, "\n"),
        Some(rest) => (",", rest, "\n"),
        None => (",\"record\":", text, "}\n"),
    };
    out.extend_from_slice(b"{\"rejected\":");
    out.extend_from_slice(label.as_bytes());
    out.extend_from_slice(between.as_bytes());
    out.extend(rest.bytes().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }));
    out.extend_from_slice(end.as_bytes());
}

/// The inside of an object, without what an earlier rejection wrote at its head.
fn without_label(inside: &str) -> &str {
    let inside = inside.trim_ascii_start();
    let Some(label) = inside.strip_prefix("\"rejected\":") else {
        return inside;
    };
    let mut value = serde_json::Deserializer::from_str(label).into_iter::<IgnoredAny>();
    match value.next() {
        Some(Ok(_)) => label[value.byte_offset()..].trim_ascii_start().trim_start_matches(',').trim_ascii_start(),
        _ => inside,
    }
}

/// The file while it is written; it is created with the first line.
pub(super) struct Rejected {
    path: PathBuf,
    file: Option<File>,
    /// Lines that are not written yet.
    pub(super) lines: Vec<u8>,
    bytes: u64,
}

impl Rejected {
    /// For the file at `path`, with no lines yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, lines: Vec::new(), bytes: 0 }
    }

    /// Writes the buffer to the file if it is full.
    pub(super) fn flush_some(&mut self) -> Result<()> {
        if self.lines.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes the rest. The file, for the caller to flush to disk, and its size; none if there were no lines.
    pub(super) fn finish(mut self) -> Result<(Option<File>, u64)> {
        self.flush()?;
        Ok((self.file, self.bytes))
    }

    fn flush(&mut self) -> Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => File::create(&self.path).map_err(Error::io("write", &self.path))?,
        };
        self.file.insert(file).write_all(&self.lines).map_err(Error::io("write", &self.path))?;
        self.bytes += self.lines.len() as u64;
        self.lines.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_line_is_the_record_and_why() {
        let row = DroppedRow { file: "a.json".into(), line: 3, row: 1, reason: Reason::EmptyAnswer, first: None };
        let why = json!({"file": "a.json", "line": 3, "row": 1, "reason": "empty_answer"});
        for (text, expected) in [
            ("{\r\n \"a\": \"x\\ny\",\n \"b\": 1e400}", "{\"rejected\":W,\"a\": \"x\\ny\",  \"b\": 1e400}\n"),
            ("{ }", "{\"rejected\":W}\n"),
            ("{\"rejected\":{\"line\":9},\"a\":1}", "{\"rejected\":W,\"a\":1}\n"),
            ("{\"rejected\": {} }", "{\"rejected\":W}\n"),
            ("[1,\n2]", "{\"rejected\":W,\"record\":[1, 2]}\n"),
            ("3", "{\"rejected\":W,\"record\":3}\n"),
        ] {
            let mut line = Vec::new();
            write(&row, text, &mut line);
            let line = String::from_utf8(line).unwrap();
            let label = serde_json::to_string(&row).unwrap();
            assert_eq!(line, expected.replace('W', &label));
            if !text.contains("1e400") {
                let parsed: Value = serde_json::from_str(&line).unwrap();
                assert_eq!(parsed["rejected"], why);
            }
        }
    }
}
