//! Parquet: each row as the JSON record that it would be in a JSONL file, a few at a time.
//!
//! A column without a value in a row is a key that the record does not have. Row n stands in "line" n + 1.

use super::chunk::{Chunk, Span};
use super::container::refuse;
use super::parquet_pages;
use super::split::LARGEST_RECORD;
use crate::error::{Error, Result};
use crate::guarded::guarded;
use parquet::basic::ConvertedType;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::serialized_reader::ReadOptionsBuilder;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde::Serialize;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// About how much text is made at a time.
const CHUNK_BYTES: usize = 2 << 20;
/// Values of a column that are decoded at a time.
const MOST_VALUES: usize = 1024;

/// The rows of a file.
pub(super) struct ParquetRows {
    path: PathBuf,
    file: File,
    bytes: u64,
    metadata: Arc<ParquetMetaData>,
    /// The row group that is read next, and its first row.
    group: (usize, u64),
    iter: RowIter<'static>,
    rows: u64,
    row: u64,
    digest: Option<blake3::Hash>,
}

impl ParquetRows {
    pub(super) fn open(file: File, shown: &Path) -> Result<Self> {
        guarded(|| Self::open_unguarded(file, shown)).unwrap_or_else(|| Err(contradicts(shown)))
    }

    fn open_unguarded(file: File, shown: &Path) -> Result<Self> {
        let bytes = file.metadata().map_err(Error::io("read", shown))?.len();
        let reader = file.try_clone().map_err(Error::io("read", shown))?;
        let options = ReadOptionsBuilder::new().build();
        let reader = SerializedFileReader::new_with_options(reader, options)
            .map_err(|error| damage(shown, &error.to_string()))?;
        let metadata = Arc::new(reader.metadata().clone());
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
        Ok(Self { path: shown.to_path_buf(), file, bytes, metadata, group: (0, 0), iter, rows, row: 0, digest: None })
    }

    /// The next rows; after an error there are none.
    pub(super) fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        guarded(|| self.next_unguarded()).unwrap_or_else(|| Err(contradicts(&self.path)))
    }

    fn next_unguarded(&mut self) -> Result<Option<Chunk>> {
        let mut chunk = Chunk { bytes: Vec::with_capacity(CHUNK_BYTES), records: Vec::new() };
        while chunk.bytes.len() < CHUNK_BYTES {
            while self.row >= self.group.1 && self.group.0 < self.metadata.num_row_groups() {
                self.check_group()?;
            }
            let Some(row) = self.iter.next() else {
                self.end()?;
                break;
            };
            let row = row.map_err(|error| damage(&self.path, &error.to_string()))?;
            let start = chunk.bytes.len();
            let mut writer = Writer { out: &mut chunk.bytes, most: start + LARGEST_RECORD, full: false };
            if let Some(column) = writer.record(&row) {
                return Err(self.too_large(&column, self.row));
            }
            chunk.records.push(Span { start, end: chunk.bytes.len(), row: self.row, line: self.row + 1, column: 1 });
            chunk.bytes.push(b'\n');
            self.row += 1;
        }
        Ok(if chunk.records.is_empty() { None } else { Some(chunk) })
    }

    /// The row group that is read next has no page that is too large to be unpacked.
    fn check_group(&mut self) -> Result<()> {
        let (number, first) = self.group;
        let group = self.metadata.row_group(number);
        for column in group.columns() {
            let Some(page) = parquet_pages::too_large(&self.file, self.bytes, column) else { continue };
            let description = column.column_descr();
            let name = description.path().string();
            let Some(before) = page.before else {
                let problem = format!("has a dictionary of {} MiB for its column `{name}`", page.bytes >> 20);
                let hint =
                    "write it without one (PyArrow's use_dictionary=False): then a row that is too large is named";
                return Err(refuse(&self.path, &problem, hint));
            };
            // The values of a list belong to fewer rows.
            let row = first + if description.max_rep_level() == 0 { before } else { 0 };
            if page.value {
                return Err(self.too_large(&name, row));
            }
            let size = page.bytes >> 20;
            let problem = format!("has a page of {size} MiB in its column `{name}`, from row {} on", row + 1);
            return Err(refuse(&self.path, &problem, "write it with smaller pages: PyArrow's write_batch_size=16"));
        }
        self.group = (number + 1, first + u64::try_from(group.num_rows()).unwrap_or(0));
        Ok(())
    }

    fn too_large(&self, column: &str, row: u64) -> Error {
        Error::Syntax {
            path: self.path.clone(),
            line: row + 1,
            column: 1,
            row: Some(row),
            problem: format!("the column `{column}` makes the row larger than {} MiB", LARGEST_RECORD >> 20),
            hint: "write the file without that row",
        }
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

/// Writes rows as JSON, up to a size: what would exceed it is left out, and nothing is written then.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    most: usize,
    full: bool,
}

impl Writer<'_> {
    /// Writes a record; the column that made it too large, if one did.
    fn record(&mut self, row: &Row) -> Option<String> {
        let mut last = "";
        self.row(row, &mut last);
        self.full.then(|| last.to_owned())
    }

    /// `last` becomes the name of the column that was written last.
    fn row<'r>(&mut self, row: &'r Row, last: &mut &'r str) {
        self.put(b"{");
        let columns = row.get_column_iter().filter(|(_, field)| !matches!(field, Field::Null));
        for (i, (name, field)) in columns.enumerate() {
            if self.full {
                return;
            }
            *last = name;
            self.comma(i);
            self.text(name);
            self.put(b":");
            self.field(field);
        }
        self.put(b"}");
    }

    fn put(&mut self, bytes: &[u8]) {
        self.full |= self.out.len() + bytes.len() > self.most;
        if !self.full {
            self.out.extend_from_slice(bytes);
        }
    }

    fn comma(&mut self, before: usize) {
        if before > 0 {
            self.put(b",");
        }
    }

    fn text(&mut self, text: &str) {
        self.full |= self.out.len() + text.len() > self.most;
        self.json(text);
    }

    fn field(&mut self, field: &Field) {
        match field {
            Field::Null => self.put(b"null"),
            Field::Str(text) => self.text(text),
            // Some writers do not mark their bytes as text.
            Field::Bytes(bytes) => match bytes.as_utf8() {
                Ok(text) => self.text(text),
                Err(_) => self.json(&serde_json::json!({ "bytes": bytes.len() })),
            },
            Field::Bool(value) => self.json(value),
            Field::Byte(value) => self.json(value),
            Field::Short(value) => self.json(value),
            Field::Int(value) | Field::Date(value) | Field::TimeMillis(value) => self.json(value),
            Field::Long(value)
            | Field::TimeMicros(value)
            | Field::TimestampMillis(value)
            | Field::TimestampMicros(value) => self.json(value),
            Field::UByte(value) => self.json(value),
            Field::UShort(value) => self.json(value),
            Field::UInt(value) => self.json(value),
            Field::ULong(value) => self.json(value),
            Field::Float16(value) => self.json(&value.to_f32()),
            Field::Float(value) => self.json(value),
            Field::Double(value) => self.json(value),
            Field::Decimal(_) => self.json(&field.to_string()),
            Field::Group(row) => self.row(row, &mut ""),
            Field::ListInternal(list) => self.list(list.elements()),
            Field::MapInternal(map) => {
                self.put(b"{");
                for (i, (key, value)) in map.entries().iter().enumerate() {
                    if self.full {
                        return;
                    }
                    self.comma(i);
                    match key {
                        Field::Str(text) => self.text(text),
                        other => self.json(&other.to_string()),
                    }
                    self.put(b":");
                    self.field(value);
                }
                self.put(b"}");
            }
        }
    }

    fn list(&mut self, items: &[Field]) {
        self.put(b"[");
        for (i, item) in items.iter().enumerate() {
            if self.full {
                return;
            }
            self.comma(i);
            self.field(item);
        }
        self.put(b"]");
    }

    /// A scalar. Writing to memory does not fail, and text and numbers have a form in JSON (not a number: null).
    fn json(&mut self, value: &(impl Serialize + ?Sized)) {
        if !self.full {
            let _ = serde_json::to_writer(&mut *self.out, value);
        }
        // Escapes can make a text longer.
        self.full |= self.out.len() > self.most;
    }
}

/// The library panics where one part of a file contradicts another.
fn contradicts(path: &Path) -> Error {
    damage(path, "its parts contradict each other")
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

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    /// One row, `{"ids": [0, 1, …]}`, as the library reads it.
    fn numbers(n: i64) -> Row {
        use parquet::data_type::Int64Type;
        let schema = "message row { required group ids (LIST) { repeated group list { required int64 element; } } }";
        let file = tempfile::tempfile().unwrap();
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(file.try_clone().unwrap(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<i64> = (0..n).collect();
        let repeated: Vec<i16> = values.iter().map(|&i| i16::from(i > 0)).collect();
        let defined = vec![1; values.len()];
        column.typed::<Int64Type>().write_batch(&values, Some(&defined), Some(&repeated)).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        let reader = SerializedFileReader::new(file).unwrap();
        RowIter::from_file_into(Box::new(reader)).next().unwrap().unwrap()
    }

    fn written(row: &Row, most: usize) -> (Option<String>, String) {
        let mut out = Vec::new();
        let large = Writer { out: &mut out, most, full: false }.record(row);
        (large, String::from_utf8(out).unwrap())
    }

    #[test]
    fn numbers_count_as_text_does() {
        let row = numbers(10);
        let whole = r#"{"ids":[0,1,2,3,4,5,6,7,8,9]}"#;
        assert_eq!(written(&row, whole.len()), (None, whole.to_owned()));
        for most in 0..whole.len() {
            let (large, out) = written(&row, most);
            let column = if most == 0 { "" } else { "ids" };
            assert_eq!(large.as_deref(), Some(column), "{most}");
            // A number, and the quotation marks of a name, are written before they are known to be too long.
            assert!(out.len() <= most + 2, "{out}");
        }
        let long = Row::new(vec![("n".repeat(50), Field::Int(1)), ("later".to_owned(), Field::Bool(true))]);
        assert_eq!(written(&long, 40).0, Some("n".repeat(50)));
        let many = Row::new((0..50).map(|i| (format!("c{i}"), Field::Bool(true))).collect());
        assert_eq!(written(&many, 40).0.as_deref(), Some("c4"));
    }
}
