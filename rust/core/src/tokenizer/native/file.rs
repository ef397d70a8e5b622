//! The compiled file: a checksum, a head in JSON, and the arrays as they stand in memory.
//!
//! | bytes | what |
//! |---|---|
//! | 32 | BLAKE3 of all that follows |
//! | 8 | length of the head |
//! | head | JSON: version, hash of the `tokenizer.json`, [`Head`], length of each array |
//! | arrays | little-endian, concatenated |
//!
//! It lives in the user's cache folder under the hash of its source. A file that is damaged, of another version, or of
//! another source is made again; every index in it is checked where it is used, so a forged one can give wrong ids but
//! nothing worse.

use super::tables::{Head, Tables};
use crate::durable::write_cached;
use crate::error::{Error, Result};
use bytemuck::{cast_slice, cast_slice_mut};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// Raised whenever the layout or what compiling gives changes.
const VERSION: u32 = 7;
const LARGEST_HEAD: u64 = 16 << 20;
const LARGEST_ARRAY: usize = 1 << 28;

#[derive(Serialize, Deserialize)]
struct Contents {
    version: u32,
    source: String,
    head: Head,
    lengths: [usize; 9],
}

/// Name of the file for a source.
pub(super) fn name(source: &str) -> String {
    format!("{source}-v{VERSION}.tokenizer")
}

/// Reads a compiled file; nothing if it cannot be trusted.
pub(super) fn read(path: &Path, source: &str) -> Option<(Head, Tables)> {
    if cfg!(target_endian = "big") {
        return None;
    }
    let mut file = File::open(path).ok()?;
    let mut checksum = [0; 32];
    file.read_exact(&mut checksum).ok()?;
    let mut reader = Hashing { inner: file, hasher: blake3::Hasher::new() };
    let mut length = [0; 8];
    reader.fill(&mut length)?;
    let length = u64::from_le_bytes(length);
    let mut head = vec![0; usize::try_from(length).ok().filter(|_| length <= LARGEST_HEAD)?];
    reader.fill(&mut head)?;
    let contents: Contents = serde_json::from_slice(&head).ok()?;
    if contents.version != VERSION || contents.source != source {
        return None;
    }
    let [byte_ids, short, long, bytes, byte_pairs, pairs, characters, merged, borders] = contents.lengths;
    let tables = Tables {
        byte_ids: reader.array(byte_ids)?,
        short: reader.array(short)?,
        long: reader.array(long)?,
        bytes: reader.array(bytes)?,
        byte_pairs: reader.array(byte_pairs)?,
        pairs: reader.array(pairs)?,
        characters: reader.array(characters)?,
        merged: reader.array(merged)?,
        borders: reader.array(borders)?,
    };
    let whole = reader.hasher.finalize() == blake3::Hash::from_bytes(checksum) && tables.fit_together();
    whole.then_some((contents.head, tables))
}

/// Writes a compiled file, whole or not at all.
///
/// # Errors
///
/// [`Error::Io`]; the caller can do without the file.
pub(super) fn write(path: &Path, source: &str, head: &Head, tables: &Tables) -> Result<()> {
    let t = tables;
    let lengths = [
        t.byte_ids.len(),
        t.short.len(),
        t.long.len(),
        t.bytes.len(),
        t.byte_pairs.len(),
        t.pairs.len(),
        t.characters.len(),
        t.merged.len(),
        t.borders.len(),
    ];
    let contents = Contents { version: VERSION, source: source.to_owned(), head: head.clone(), lengths };
    let head = serde_json::to_vec(&contents).map_err(|e| Error::Option { problem: e.to_string() })?;
    let length = (head.len() as u64).to_le_bytes();
    let parts: [&[u8]; 11] = [
        &length,
        &head,
        cast_slice(&t.byte_ids),
        cast_slice(&t.short),
        cast_slice(&t.long),
        &t.bytes,
        cast_slice(&t.byte_pairs),
        cast_slice(&t.pairs),
        cast_slice(&t.characters),
        cast_slice(&t.merged),
        cast_slice(&t.borders),
    ];
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    // Not flushed: after a power failure the checksum tells, and the file is made again.
    write_cached(path, |file| {
        file.write_all(hasher.finalize().as_bytes())?;
        parts.iter().try_for_each(|part| file.write_all(part))
    })
}

struct Hashing {
    inner: File,
    hasher: blake3::Hasher,
}

impl Hashing {
    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        self.inner.read_exact(bytes).ok()?;
        self.hasher.update(bytes);
        Some(())
    }

    fn array<T: bytemuck::Pod>(&mut self, length: usize) -> Option<Vec<T>> {
        let mut array = vec![T::zeroed(); Some(length).filter(|n| *n <= LARGEST_ARRAY)?];
        self.fill(cast_slice_mut(&mut array))?;
        Some(array)
    }
}
