//! A shard as it grows: the ids go to the file as they come, the small columns at the end.

use super::ShardEntry;
use super::layout::{self, Column, HEADER_BYTES, Size};
use crate::encode::{Encoded, Span};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

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

/// Samples of one file as columns, in memory: what a thread makes and a shard takes.
#[derive(Debug, Default)]
pub struct Samples {
    ids: Vec<u32>,
    spans: Vec<Span>,
    ends: Vec<End>,
    questions: Vec<i64>,
}

/// Where a sample ends in the columns, and where it stood in the data.
#[derive(Debug, Clone, Copy)]
struct End {
    ids: usize,
    spans: usize,
    row: u64,
    line: u64,
}

impl Samples {
    /// Appends a sample; all of them have a `question`, or none.
    pub fn push(&mut self, sample: &Encoded, origin: Origin, question: Option<i64>) {
        self.ids.extend_from_slice(&sample.ids);
        self.spans.extend_from_slice(&sample.spans);
        self.ends.push(End { ids: self.ids.len(), spans: self.spans.len(), row: origin.row, line: origin.line });
        self.questions.extend(question);
    }

    /// Forgets the samples and keeps the memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.spans.clear();
        self.ends.clear();
        self.questions.clear();
    }

    /// Samples held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Tokens and learned tokens of each sample.
    pub fn lengths(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut before = (0, 0);
        self.ends.iter().map(move |end| {
            let spans = &self.spans[before.1..end.spans];
            let length = end.ids - before.0;
            before = (end.ids, end.spans);
            (length, spans.iter().map(|(from, to)| (to - from) as usize).sum())
        })
    }
}

/// A complete shard, still to be flushed to disk.
pub struct Written {
    /// The open file.
    pub file: File,
    /// What the manifest says of it.
    pub entry: ShardEntry,
    /// Its largest token id.
    pub largest_id: u32,
}

/// A shard that grows on disk.
pub struct ShardFile {
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    source: u32,
    small: SmallColumns,
    tokens: u64,
    largest_id: u32,
    buffer: Vec<u8>,
}

/// The columns that are held until the end.
#[derive(Default)]
struct SmallColumns {
    offsets: Vec<u8>,
    span_offsets: Vec<u8>,
    rows: Vec<u8>,
    lines: Vec<u8>,
    questions: Vec<u8>,
    spans: Vec<u8>,
    n: u64,
    n_spans: u64,
}

impl ShardFile {
    /// Begins a shard of samples of one source.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn create(path: &Path, source: u32) -> Result<Self> {
        let mut file = File::create(path).map_err(Error::io("write", path))?;
        file.write_all(&[0; HEADER_BYTES]).map_err(Error::io("write", path))?;
        let mut small = SmallColumns::default();
        small.offsets.extend(0_i64.to_le_bytes());
        small.span_offsets.extend(0_i64.to_le_bytes());
        let (hasher, buffer) = (blake3::Hasher::new(), Vec::new());
        Ok(Self { path: path.to_path_buf(), file, hasher, source, small, tokens: 0, largest_id: 0, buffer })
    }

    /// Appends samples.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], a full disk among others.
    pub fn append(&mut self, samples: &Samples) -> Result<()> {
        self.buffer.resize(samples.ids.len() * 4, 0);
        for (bytes, id) in self.buffer.chunks_exact_mut(4).zip(&samples.ids) {
            bytes.copy_from_slice(&id.to_le_bytes());
        }
        self.write()?;
        self.largest_id = samples.ids.iter().copied().fold(self.largest_id, u32::max);
        let small = &mut self.small;
        for end in &samples.ends {
            small.offsets.extend((self.tokens + end.ids as u64).to_le_bytes());
            small.span_offsets.extend((small.n_spans + end.spans as u64).to_le_bytes());
            small.rows.extend(end.row.to_le_bytes());
            small.lines.extend(end.line.to_le_bytes());
        }
        small.questions.extend(samples.questions.iter().flat_map(|q| q.to_le_bytes()));
        for (from, to) in &samples.spans {
            small.spans.extend(from.to_le_bytes());
            small.spans.extend(to.to_le_bytes());
        }
        small.n += samples.ends.len() as u64;
        small.n_spans += samples.spans.len() as u64;
        self.tokens += samples.ids.len() as u64;
        Ok(())
    }

    /// Writes what is left; the file is complete, and the caller flushes it to disk. `name` is its name in the manifest.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn finish(mut self, name: String) -> Result<Written> {
        let SmallColumns { offsets, span_offsets, rows, lines, questions, spans, n, n_spans } =
            std::mem::take(&mut self.small);
        let size = Size { samples: n as usize, tokens: self.tokens as usize, spans: n_spans as usize };
        let header = layout::header(size, !questions.is_empty());
        let files = self.source.to_le_bytes().repeat(n as usize);
        let padding = vec![0; (self.tokens + n) as usize % 2 * Column::Padding.width()];
        for column in [files, padding, offsets, span_offsets, rows, lines, questions, spans] {
            self.buffer = column;
            self.write()?;
        }
        let placed = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(&header));
        placed.map_err(Error::io("write", &self.path))?;
        let bytes = self.file.metadata().map_err(Error::io("read", &self.path))?.len();
        let blake3 = self.hasher.finalize().to_hex().to_string();
        let entry = ShardEntry { file: name, rows: n, tokens: self.tokens, bytes, blake3 };
        Ok(Written { file: self.file, entry, largest_id: self.largest_id })
    }

    fn write(&mut self) -> Result<()> {
        self.hasher.update(&self.buffer);
        self.file.write_all(&self.buffer).map_err(Error::io("write", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    #[test]
    fn the_library_reads_what_is_written() {
        for extra in 0..2 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("s");
            let mut shard = ShardFile::create(&path, 1).unwrap();
            let mut samples = Samples::default();
            samples.push(
                &Encoded { ids: vec![7, 8, 9], spans: vec![(1, 3)] },
                Origin { file: 1, row: 4, line: 5 },
                Some(-7),
            );
            assert_eq!(samples.lengths().collect::<Vec<_>>(), [(3, 2)]);
            shard.append(&samples).unwrap();
            samples.clear();
            let last = vec![1; 1 + extra];
            samples.push(&Encoded { ids: last.clone(), spans: vec![] }, Origin { file: 1, row: 6, line: 9 }, Some(8));
            shard.append(&samples).unwrap();
            let Written { entry, largest_id, .. } = shard.finish("s".to_owned()).unwrap();
            assert_eq!(largest_id, 9);

            let bytes = std::fs::read(&path).unwrap();
            assert_eq!((bytes.len() as u64, entry.rows, entry.tokens), (entry.bytes, 2, 4 + extra as u64));
            assert_eq!(blake3::hash(&bytes[HEADER_BYTES..]).to_hex().as_str(), entry.blake3);
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let ints = |name: &str| -> Vec<i64> {
                let tensor = tensors.tensor(name).unwrap();
                let width = tensor.data().len() / tensor.shape().iter().product::<usize>().max(1);
                let begin = tensor.data().as_ptr() as usize - bytes.as_ptr() as usize;
                assert!(width != 8 || begin.is_multiple_of(8), "{name}");
                let number = |c: &[u8]| match *c {
                    [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
                    _ => i64::from_le_bytes(c.try_into().unwrap()),
                };
                tensor.data().chunks(width).map(number).collect()
            };
            assert_eq!(ints("input_ids"), [&[7, 8, 9][..], &vec![1_i64; last.len()]].concat());
            assert_eq!(ints("sample_offsets"), [0, 3, 4 + extra as i64]);
            assert_eq!((ints("spans"), ints("span_offsets")), (vec![1, 3], vec![0, 1, 1]));
            assert_eq!(ints("record_question"), [-7, 8]);
            let origins = (ints("record_file"), ints("record_index"), ints("record_line"));
            assert_eq!(origins, (vec![1, 1], vec![4, 6], vec![5, 9]));
        }
    }
}
