//! The prepared dataset on disk: shards of columns, written and read again; the only place that knows their format.
//!
//! A shard is a safetensors file: 8 bytes of header length, a JSON header, raw little-endian columns (`layout`). The ids
//! come first and go to the file as they are made (`write`); only the small columns are held until the shard is closed.
//! Columns of 8-byte numbers begin at multiples of 8, so that a mapped file can be used where it lies. What is read
//! (`read`) is checked, and compared with the hash that the manifest has of it (`verify`).

mod checksums;
mod layout;
mod read;
mod verified;
mod verify;
mod write;

pub use checksums::Checksums;
pub use layout::{Column, FORMAT_VERSION, Placed};
pub use read::{Shard, read_lengths};
pub use verified::remember_written;
pub use verify::{Damage, Opened, Verify, open};
pub use write::{Origin, Samples, ShardFile, Written};

use serde::{Deserialize, Serialize};

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
    /// Hash of the columns: of all bytes after the header.
    pub blake3: String,
}
