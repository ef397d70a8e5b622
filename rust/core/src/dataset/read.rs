//! One shard, read and checked: where its columns lie, and what its samples are long.

use super::ShardEntry;
use super::layout::{self, Column, Placed};
use crate::error::{Error, Result};
use crate::regular_file;
use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes that are read at a time.
const BLOCK: usize = 1 << 20;

/// A shard whose columns can be relied on.
#[derive(Debug, Clone)]
pub struct Shard {
    /// Its columns, in the order of the file.
    pub columns: Vec<Placed>,
    /// Tokens of each sample.
    pub lengths: Vec<u32>,
    /// Supervised tokens of each sample.
    pub supervised: Vec<u32>,
    /// The largest token id, if the ids were read.
    pub largest_id: Option<u32>,
}

/// How much of a shard is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    /// The columns that lengths are made of.
    Lengths,
    /// All columns, each value in its range.
    Ranges,
    /// All bytes, compared with their hash too.
    Hash,
}

/// Why a shard cannot be used.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is not what was written; in words, after the name of the file.
    Damaged(String),
    /// The operating system refused.
    Io(Error),
}

impl From<String> for Fault {
    fn from(problem: String) -> Self {
        Self::Damaged(problem)
    }
}

/// Lengths and supervised tokens of the samples of a shard.
///
/// # Errors
///
/// [`Error::Artifact`] for a damaged shard, [`Error::Io`].
pub fn read_lengths(folder: &Path, entry: &ShardEntry) -> Result<(Vec<u32>, Vec<u32>)> {
    match shard(folder, entry, usize::MAX, Depth::Lengths, &mut |_| true) {
        Ok(Some(shard)) => Ok((shard.lengths, shard.supervised)),
        Ok(None) => Ok((Vec::new(), Vec::new())),
        Err(Fault::Io(error)) => Err(error),
        Err(Fault::Damaged(problem)) => Err(damaged(&folder.join(&entry.file), &problem)),
    }
}

/// The error of a shard that cannot be used.
pub(super) fn damaged(path: &Path, problem: &str) -> Error {
    Error::Artifact {
        path: path.to_path_buf(),
        problem: format!("is damaged: {problem}"),
        hint: "run the same `qlora-fast prep` again: it makes a damaged shard again from its source",
    }
}

/// Reads a shard of a dataset of `files` files. `tick` is told the bytes that were read and says whether to continue;
/// `None`: it said no.
pub(super) fn shard(
    folder: &Path,
    entry: &ShardEntry,
    files: usize,
    depth: Depth,
    tick: &mut dyn FnMut(u64) -> bool,
) -> std::result::Result<Option<Shard>, Fault> {
    let path = folder.join(&entry.file);
    let io = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => Fault::Damaged("it is missing".to_owned()),
        ErrorKind::UnexpectedEof => Fault::Damaged("it ends too early".to_owned()),
        _ => Fault::Io(Error::io("read", &path)(error)),
    };
    let opened = regular_file::open(&path, &path);
    let mut file = opened.map_err(|error| match error {
        Error::Io { source, .. } => io(source),
        _ => Fault::Damaged("it is not a regular file".to_owned()),
    })?;
    let bytes = file.metadata().map_err(io)?.len();
    if bytes != entry.bytes {
        return Err(format!("it has {bytes} bytes, the manifest says {}", entry.bytes).into());
    }
    let mut first = [0; 8];
    file.read_exact(&mut first).map_err(io)?;
    let mut header = vec![0; layout::header_length(first, bytes)?];
    file.read_exact(&mut header).map_err(io)?;
    let columns = layout::placed(&header, bytes, entry.rows, entry.tokens)?;
    let mut reading = Reading { file, depth, hasher: blake3::Hasher::new(), block: Vec::new(), ids: (0, 0) };
    let Some(values) = reading.columns(&columns, tick).map_err(io)? else { return Ok(None) };
    if depth == Depth::Hash && reading.hasher.finalize().to_hex().as_str() != entry.blake3 {
        return Err("its bytes do not have the hash that the manifest names".to_owned().into());
    }
    let (lengths, supervised) = lengths(&values, entry.tokens)?;
    let mut largest_id = None;
    if depth > Depth::Lengths {
        let (smallest, largest) = reading.ids;
        check_records(&values, files)?;
        largest_id =
            Some(u32::try_from(largest).ok().filter(|_| smallest >= 0).ok_or("a token id is negative".to_owned())?);
    }
    Ok(Some(Shard { columns, lengths, supervised, largest_id }))
}

/// The values of the small columns, by column.
type Values = HashMap<Column, Vec<u8>>;

struct Reading {
    file: File,
    depth: Depth,
    hasher: blake3::Hasher,
    block: Vec<u8>,
    /// The smallest and the largest token id so far.
    ids: (i32, i32),
}

impl Reading {
    /// Reads the columns one after the other, which is the order of the file.
    fn columns(&mut self, columns: &[Placed], tick: &mut dyn FnMut(u64) -> bool) -> std::io::Result<Option<Values>> {
        let mut values = Values::new();
        for placed in columns {
            let wanted = match placed.column {
                Column::SampleOffsets | Column::SpanOffsets | Column::Spans => true,
                _ => self.depth > Depth::Lengths,
            };
            if !wanted {
                continue;
            }
            if self.depth == Depth::Lengths {
                self.file.seek(SeekFrom::Start(placed.offset))?;
            }
            let keeps = placed.column != Column::InputIds;
            let mut value = Vec::with_capacity(if keeps { placed.bytes as usize } else { 0 });
            let mut left = placed.bytes as usize;
            while left > 0 {
                let size = left.min(BLOCK);
                self.block.resize(size, 0);
                self.file.read_exact(&mut self.block)?;
                left -= size;
                if self.depth == Depth::Hash {
                    self.hasher.update(&self.block);
                }
                if keeps {
                    value.extend_from_slice(&self.block);
                } else {
                    self.ids = range(&self.block, self.ids);
                }
                if !tick(size as u64) {
                    return Ok(None);
                }
            }
            values.insert(placed.column, value);
        }
        Ok(Some(values))
    }
}

/// The smallest and the largest number of a block, and of those before.
fn range(block: &[u8], before: (i32, i32)) -> (i32, i32) {
    block.as_chunks::<4>().0.iter().fold(before, |(low, high), bytes| {
        let id = i32::from_le_bytes(*bytes);
        (low.min(id), high.max(id))
    })
}

fn wide(values: &Values, column: Column) -> Vec<i64> {
    let bytes = values.get(&column).map_or(&[][..], Vec::as_slice);
    bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
}

fn narrow(values: &Values, column: Column) -> Vec<i32> {
    let bytes = values.get(&column).map_or(&[][..], Vec::as_slice);
    bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

/// Tokens and supervised tokens of each sample; offsets and spans are checked on the way.
fn lengths(values: &Values, tokens: u64) -> std::result::Result<(Vec<u32>, Vec<u32>), String> {
    let offsets = wide(values, Column::SampleOffsets);
    let span_offsets = wide(values, Column::SpanOffsets);
    let spans = narrow(values, Column::Spans);
    let bounds = |offsets: &[i64], last: usize| offsets.first() == Some(&0) && offsets.last() == Some(&(last as i64));
    if !bounds(&offsets, tokens as usize) || !bounds(&span_offsets, spans.len() / 2) {
        return Err("its offsets do not fit its columns".to_owned());
    }
    if !span_offsets.is_sorted() {
        return Err("the offsets of its spans do not ascend".to_owned());
    }
    let mut lengths = Vec::with_capacity(offsets.len());
    let mut supervised = Vec::with_capacity(offsets.len());
    for (sample, (ends, span_ends)) in offsets.windows(2).zip(span_offsets.windows(2)).enumerate() {
        let length = ends[1] - ends[0];
        if length <= 0 || length > i64::from(i32::MAX) {
            return Err(format!("the offsets of sample {sample} do not ascend"));
        }
        let (mut before, mut sum) = (1, 0);
        for span in spans[2 * span_ends[0] as usize..2 * span_ends[1] as usize].chunks_exact(2) {
            let (start, end) = (i64::from(span[0]), i64::from(span[1]));
            if start < before || end <= start || end > length {
                return Err(format!("a supervised span of sample {sample} does not lie in it"));
            }
            sum += (end - start) as u32;
            before = end;
        }
        lengths.push(length as u32);
        supervised.push(sum);
    }
    Ok((lengths, supervised))
}

/// Where samples come from: a file of the list, a row and a line.
fn check_records(values: &Values, files: usize) -> std::result::Result<(), String> {
    let file = |&file: &i32| usize::try_from(file).is_ok_and(|file| file < files);
    if !narrow(values, Column::RecordFile).iter().all(file) {
        return Err("a sample comes from a file that the manifest does not list".to_owned());
    }
    let counted = |column| wide(values, column).iter().all(|&number| number >= 0);
    if !counted(Column::RecordIndex) || !counted(Column::RecordLine) {
        return Err("the row or the line of a sample is negative".to_owned());
    }
    Ok(())
}
