//! The prepared dataset on disk: safetensors shards and a manifest.
//!
//! A shard is a safetensors file (8 bytes of header length, a JSON header, raw little-endian columns) with
//!
//! | column | type | shape | |
//! |---|---|---|---|
//! | `input_ids` | I32 | `[T]` | tokens, sample after sample |
//! | `sample_offsets` | I64 | `[N + 1]` | where each sample begins |
//! | `spans` | I32 | `[S, 2]` | learned ranges, counted from the sample's first token |
//! | `span_offsets` | I64 | `[N + 1]` | each sample's first span |
//! | `record_file` | I32 | `[N]` | index into the manifest's `sources` |
//! | `record_index` | I64 | `[N]` | 0-based row in its file |
//! | `record_line` | I64 | `[N]` | 1-based line in its file |
//!
//! Columns begin at multiples of 8, so that a mapped file can be used where it lies.

use crate::durable::NewFolder;
use crate::encode::Encoded;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Tokens after which a shard is closed: what bounds the memory.
const SHARD_TOKENS: usize = 16 << 20;

/// Where a sample came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Index into the sources.
    pub file: u32,
    /// 0-based row.
    pub row: u64,
    /// 1-based line.
    pub line: u64,
}

/// A shard as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// File name.
    pub file: String,
    /// Samples.
    pub rows: u64,
    /// Tokens.
    pub tokens: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Hash of the file.
    pub blake3: String,
}

/// Columns of some samples, in memory.
#[derive(Debug, Default)]
pub struct Columns {
    ids: Vec<u8>,
    offsets: Vec<u8>,
    spans: Vec<u8>,
    span_offsets: Vec<u8>,
    files: Vec<u8>,
    rows: Vec<u8>,
    lines: Vec<u8>,
    n: u64,
    tokens: u64,
    n_spans: u64,
}

impl Columns {
    /// Appends a sample.
    pub fn push(&mut self, sample: &Encoded, origin: Origin) {
        if self.n == 0 {
            self.offsets.extend(0_i64.to_le_bytes());
            self.span_offsets.extend(0_i64.to_le_bytes());
        }
        self.ids.extend(sample.ids.iter().flat_map(|id| id.to_le_bytes()));
        for (start, end) in &sample.spans {
            self.spans.extend(start.to_le_bytes());
            self.spans.extend(end.to_le_bytes());
        }
        self.n += 1;
        self.tokens += sample.ids.len() as u64;
        self.n_spans += sample.spans.len() as u64;
        self.offsets.extend(self.tokens.to_le_bytes());
        self.span_offsets.extend(self.n_spans.to_le_bytes());
        self.files.extend(origin.file.to_le_bytes());
        self.rows.extend(origin.row.to_le_bytes());
        self.lines.extend(origin.line.to_le_bytes());
    }

    /// Samples held.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.n
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }
}

/// Writes samples into the shards of a folder.
pub struct ShardWriter<'f> {
    folder: &'f NewFolder,
    columns: Columns,
    shards: Vec<ShardEntry>,
}

impl<'f> ShardWriter<'f> {
    /// Begins the first shard.
    #[must_use]
    pub fn new(folder: &'f NewFolder) -> Self {
        Self { folder, columns: Columns::default(), shards: Vec::new() }
    }

    /// Appends a sample; writes the shard when it is full.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::error::Error::Io).
    pub fn push(&mut self, sample: &Encoded, origin: Origin) -> Result<()> {
        self.columns.push(sample, origin);
        if self.columns.tokens as usize >= SHARD_TOKENS { self.flush() } else { Ok(()) }
    }

    /// Writes what is left; the list of all shards.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::error::Error::Io).
    pub fn finish(mut self) -> Result<Vec<ShardEntry>> {
        if !self.columns.is_empty() {
            self.flush()?;
        }
        Ok(self.shards)
    }

    fn flush(&mut self) -> Result<()> {
        let columns = std::mem::take(&mut self.columns);
        let file = format!("shard-{:05}.safetensors", self.shards.len());
        let header = header(&columns);
        let parts = [
            &header[..],
            &columns.offsets,
            &columns.span_offsets,
            &columns.rows,
            &columns.lines,
            &columns.spans,
            &columns.ids,
            &columns.files,
        ];
        self.folder.write(&file, &parts)?;
        let mut hasher = blake3::Hasher::new();
        parts.iter().for_each(|part| {
            hasher.update(part);
        });
        self.shards.push(ShardEntry {
            file,
            rows: columns.n,
            tokens: columns.tokens,
            bytes: parts.iter().map(|p| p.len() as u64).sum(),
            blake3: hasher.finalize().to_hex().to_string(),
        });
        Ok(())
    }
}

/// Length, JSON and padding of a shard's header. Columns of 8-byte numbers come first, so all are aligned.
fn header(columns: &Columns) -> Vec<u8> {
    let layout = [
        ("sample_offsets", "I64", vec![columns.n + 1], columns.offsets.len()),
        ("span_offsets", "I64", vec![columns.n + 1], columns.span_offsets.len()),
        ("record_index", "I64", vec![columns.n], columns.rows.len()),
        ("record_line", "I64", vec![columns.n], columns.lines.len()),
        ("spans", "I32", vec![columns.n_spans, 2], columns.spans.len()),
        ("input_ids", "I32", vec![columns.tokens], columns.ids.len()),
        ("record_file", "I32", vec![columns.n], columns.files.len()),
    ];
    let mut entries = serde_json::Map::new();
    entries.insert("__metadata__".to_owned(), serde_json::json!({ "format": "qlora-fast prepared 1" }));
    let mut at = 0;
    for (name, dtype, shape, size) in layout {
        entries.insert(
            name.to_owned(),
            serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, at + size] }),
        );
        at += size;
    }
    let mut json = serde_json::Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    #[test]
    fn the_library_reads_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let folder = NewFolder::create(&dir.path().join("p")).unwrap();
        let mut writer = ShardWriter::new(&folder);
        let sample = Encoded { ids: vec![7, 8, 9], spans: vec![(1, 3)] };
        writer.push(&sample, Origin { file: 0, row: 4, line: 5 }).unwrap();
        writer.push(&Encoded { ids: vec![1], spans: vec![] }, Origin { file: 1, row: 0, line: 1 }).unwrap();
        let shards = writer.finish().unwrap();
        folder.commit().unwrap();

        let bytes = std::fs::read(dir.path().join("p").join(&shards[0].file)).unwrap();
        assert_eq!((bytes.len() as u64, shards[0].rows, shards[0].tokens), (shards[0].bytes, 2, 4));
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), shards[0].blake3);
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let ints = |name: &str| -> Vec<i64> {
            let tensor = tensors.tensor(name).unwrap();
            let width = tensor.data().len() / tensor.shape().iter().product::<usize>().max(1);
            let number = |c: &[u8]| match *c {
                [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
                _ => i64::from_le_bytes(c.try_into().unwrap()),
            };
            tensor.data().chunks(width).map(number).collect()
        };
        assert_eq!(ints("input_ids"), [7, 8, 9, 1]);
        assert_eq!(ints("sample_offsets"), [0, 3, 4]);
        assert_eq!((ints("spans"), ints("span_offsets")), (vec![1, 3], vec![0, 1, 1]));
        assert_eq!(
            (ints("record_file"), ints("record_index"), ints("record_line")),
            (vec![0, 1], vec![4, 0], vec![5, 1])
        );
    }
}
