//! A file, split into records without parsing them, in bounded memory whatever its size and container.

use super::chunk::Chunk;
use super::container::{self, Container, Stream};
use super::parquet::ParquetRows;
use super::split::Splitter;
use crate::error::Result;
use std::path::Path;

/// Whether a file is uncompressed text, so that its size bounds that of its records; false if it cannot be read.
#[must_use]
pub fn is_plain(path: &Path) -> bool {
    container::open(path, path).is_ok_and(|(_, container)| container == Container::Plain)
}

enum Source {
    Text(Box<Splitter>),
    Rows(Box<ParquetRows>),
}

/// Reads a file as [`Chunk`]s. Iteration ends after the first error.
pub struct Reader {
    source: Source,
    failed: bool,
}

impl Reader {
    /// Opens a regular file and looks at its first bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::error::Error::Io), or [`Error::File`](crate::error::Error::File) for a folder, a device,
    /// a container that is not read, or text in another encoding.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, path)
    }

    /// The same, with another name for messages.
    ///
    /// # Errors
    ///
    /// As [`Reader::open`].
    pub fn open_as(path: &Path, shown: &Path) -> Result<Self> {
        let source = match container::open(path, shown)? {
            (file, Container::Parquet) => Source::Rows(Box::new(ParquetRows::open(file, shown)?)),
            (file, container) => Source::Text(Box::new(Splitter::new(Stream::new(file, container, shown)?, shown)?)),
        };
        Ok(Self { source, failed: false })
    }

    /// Bytes read from the file so far; of Parquet, about so many.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        match &self.source {
            Source::Text(splitter) => splitter.stream().bytes_read(),
            Source::Rows(rows) => rows.bytes_read(),
        }
    }

    /// Hash of the file as it lies on disk, once the last chunk has been handed over.
    #[must_use]
    pub fn digest(&self) -> blake3::Hash {
        match &self.source {
            Source::Text(splitter) => splitter.stream().digest(),
            Source::Rows(rows) => rows.digest(),
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = match &mut self.source {
            Source::Text(splitter) => splitter.next_chunk(),
            Source::Rows(rows) => rows.next_chunk(),
        };
        self.failed = next.is_err();
        next.transpose()
    }
}
