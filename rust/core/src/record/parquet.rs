//! Parquet: each row as the JSON record that it would be in a JSONL file, a few at a time.
//!
//! A column without a value in a row is a key that the record does not have. Row n stands in "line" n + 1.

use super::chunk::{Chunk, Span};
use super::container::refuse;
use crate::error::{Error, Result};
use parquet::basic::ConvertedType;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::serialized_reader::ReadOptionsBuilder;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde::Serialize;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// About how much text is made at a time.
const CHUNK_BYTES: usize = 2 << 20;
/// Values of a column that are decoded at a time.
const MOST_VALUES: usize = 1024;

/// The rows of a file.
pub(super) struct ParquetRows {
    path: PathBuf,
    file: File,
    bytes: u64,
    iter: RowIter<'static>,
    rows: u64,
    row: u64,
    digest: Option<blake3::Hash>,
}

impl ParquetRows {
    pub(super) fn open(file: File, shown: &Path) -> Result<Self> {
        let bytes = file.metadata().map_err(Error::io("read", shown))?.len();
        let reader = file.try_clone().map_err(Error::io("read", shown))?;
        let options = ReadOptionsBuilder::new().build();
        let reader = SerializedFileReader::new_with_options(reader, options)
            .map_err(|error| damage(shown, &error.to_string()))?;
        let metadata = reader.metadata();
        for column in metadata.file_metadata().schema_descr().columns() {
            if column.converted_type() == ConvertedType::INTERVAL {
                let problem = format!("has the column `{}` of intervals of time, which is not read", column.path());
                return Err(refuse(shown, &problem, "write the file without it"));
            }
        }
        let text: i64 = metadata.row_groups().iter().map(|group| group.total_byte_size().max(0)).sum();
        let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
        let a_row = text as u64 / rows.max(1);
        let values = (CHUNK_BYTES as u64 / a_row.max(1)).clamp(1, MOST_VALUES as u64);
        let iter = RowIter::from_file_into(Box::new(reader)).with_batch_size(values as usize);
        Ok(Self { path: shown.to_path_buf(), file, bytes, iter, rows, row: 0, digest: None })
    }

    pub(super) fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        let mut chunk = Chunk { bytes: Vec::with_capacity(CHUNK_BYTES), records: Vec::new() };
        while chunk.bytes.len() < CHUNK_BYTES {
            let Some(row) = self.iter.next() else {
                self.end()?;
                break;
            };
            let row = row.map_err(|error| damage(&self.path, &error.to_string()))?;
            let start = chunk.bytes.len();
            write_row(&row, &mut chunk.bytes);
            chunk.records.push(Span { start, end: chunk.bytes.len(), row: self.row, line: self.row + 1, column: 1 });
            chunk.bytes.push(b'\n');
            self.row += 1;
        }
        Ok(if chunk.records.is_empty() { None } else { Some(chunk) })
    }

    /// The columns are read out of order, so the file is hashed in a second pass.
    fn end(&mut self) -> Result<()> {
        if self.row != self.rows {
            return Err(damage(&self.path, &format!("it holds {} of its {} rows", self.row, self.rows)));
        }
        if self.digest.is_none() {
            self.file.seek(SeekFrom::Start(0)).map_err(Error::io("read", &self.path))?;
            let mut hasher = blake3::Hasher::new();
            std::io::copy(&mut self.file, &mut hasher).map_err(Error::io("read", &self.path))?;
            self.digest = Some(hasher.finalize());
        }
        Ok(())
    }

    /// About how far the file is read.
    pub(super) fn bytes_read(&self) -> u64 {
        (self.bytes as f64 * self.row as f64 / self.rows.max(1) as f64) as u64
    }

    /// Hash of the whole file, once its last row was handed over.
    pub(super) fn digest(&self) -> blake3::Hash {
        self.digest.unwrap_or_else(|| blake3::Hasher::new().finalize())
    }
}

fn write_row(row: &Row, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut first = true;
    for (name, field) in row.get_column_iter().filter(|(_, field)| !matches!(field, Field::Null)) {
        if !first {
            out.push(b',');
        }
        first = false;
        json(name, out);
        out.push(b':');
        write_field(field, out);
    }
    out.push(b'}');
}

fn write_field(field: &Field, out: &mut Vec<u8>) {
    match field {
        Field::Null => out.extend_from_slice(b"null"),
        Field::Str(text) => json(text, out),
        // Some writers do not mark their bytes as text.
        Field::Bytes(bytes) => match bytes.as_utf8() {
            Ok(text) => json(text, out),
            Err(_) => json(&serde_json::json!({ "bytes": bytes.len() }), out),
        },
        Field::Bool(value) => json(value, out),
        Field::Byte(value) => json(value, out),
        Field::Short(value) => json(value, out),
        Field::Int(value) | Field::Date(value) | Field::TimeMillis(value) => json(value, out),
        Field::Long(value)
        | Field::TimeMicros(value)
        | Field::TimestampMillis(value)
        | Field::TimestampMicros(value) => json(value, out),
        Field::UByte(value) => json(value, out),
        Field::UShort(value) => json(value, out),
        Field::UInt(value) => json(value, out),
        Field::ULong(value) => json(value, out),
        Field::Float16(value) => json(&value.to_f32(), out),
        Field::Float(value) => json(value, out),
        Field::Double(value) => json(value, out),
        Field::Decimal(_) => json(&field.to_string(), out),
        Field::Group(row) => write_row(row, out),
        Field::ListInternal(list) => write_list(list.elements(), out),
        Field::MapInternal(map) => {
            out.push(b'{');
            for (i, (key, value)) in map.entries().iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                match key {
                    Field::Str(text) => json(text, out),
                    other => json(&other.to_string(), out),
                }
                out.push(b':');
                write_field(value, out);
            }
            out.push(b'}');
        }
    }
}

fn write_list(items: &[Field], out: &mut Vec<u8>) {
    out.push(b'[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_field(item, out);
    }
    out.push(b']');
}

/// A scalar as JSON. Writing to memory does not fail, and text and numbers have a form in JSON (not a number: null).
fn json(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, value);
}

fn damage(path: &Path, error: &str) -> Error {
    let lower = error.to_lowercase();
    let (problem, hint) = if lower.contains("utf8") || lower.contains("utf-8") {
        ("is a Parquet file with text that is not UTF-8".to_owned(), "write its texts as UTF-8")
    } else {
        let first = error.lines().next().unwrap_or_default();
        (format!("is a damaged Parquet file: {first}"), "copy or download it again; was its writer closed?")
    };
    refuse(path, &problem, hint)
}
