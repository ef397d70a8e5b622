//! The sizes of Parquet pages, read from their headers before a page is unpacked: a page is held in memory whole.
//!
//! A header is a Thrift struct in the compact protocol; of it only type, sizes and the number of values matter here.

use super::split::LARGEST_RECORD;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::ChunkReader;
use std::fs::File;

/// A page may not be larger: it is held twice while it is unpacked. The writers' usual size is 1 MiB.
const LARGEST_PAGE: u64 = 256 << 20;
/// Bytes that are read of a header; statistics can make it longer than a few dozen.
const HEADER_BYTES: u64 = 16 << 10;
/// Structs in structs, deeper than any header has.
const DEEPEST: u32 = 8;

/// A page that does not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge {
    /// Its size when it is unpacked.
    pub(super) bytes: u64,
    /// Values of the column before it, in its row group.
    pub(super) before: u64,
    /// Whether one of its values must be larger than a record may be.
    pub(super) value: bool,
}

/// The first page of a column of a row group that is too large to be unpacked. Headers that cannot be read are left to
/// the reader of the file, which reports them.
pub(super) fn too_large(file: &File, file_bytes: u64, column: &ColumnChunkMetaData) -> Option<TooLarge> {
    let (mut at, size) = column.byte_range();
    let end = at.checked_add(size)?.min(file_bytes);
    let mut before = 0;
    while at < end {
        let head = file.get_bytes(at, HEADER_BYTES.min(file_bytes - at) as usize).ok()?;
        let page = Page::read(&head)?;
        let value = page.unpacked / page.values.max(1) > LARGEST_RECORD as u64;
        if value || page.unpacked > LARGEST_PAGE {
            return Some(TooLarge { bytes: page.unpacked, before, value });
        }
        before += if page.dictionary { 0 } else { page.values };
        at = at.checked_add(page.header)?.checked_add(page.packed)?;
    }
    None
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    dictionary: bool,
    header: u64,
    unpacked: u64,
    packed: u64,
    values: u64,
}

impl Page {
    fn read(head: &[u8]) -> Option<Self> {
        let mut thrift = Thrift { bytes: head, at: 0 };
        let mut page = Self::default();
        let mut id = 0;
        while let Some(kind) = thrift.field(&mut id)? {
            match (id, kind) {
                (1, I32) => page.dictionary = thrift.integer()? == 2,
                (2, I32) => page.unpacked = u64::try_from(thrift.integer()?).ok()?,
                (3, I32) => page.packed = u64::try_from(thrift.integer()?).ok()?,
                // The headers of data pages and of dictionaries begin with the number of values.
                (5 | 7 | 8, STRUCT) => {
                    let mut inner = 0;
                    while let Some(kind) = thrift.field(&mut inner)? {
                        match (inner, kind) {
                            (1, I32) => page.values = u64::try_from(thrift.integer()?).ok()?,
                            _ => thrift.skip(kind, DEEPEST)?,
                        }
                    }
                }
                _ => thrift.skip(kind, DEEPEST)?,
            }
        }
        page.header = thrift.at as u64;
        Some(page)
    }
}

// Types of the compact protocol.
const BYTE: u8 = 3;
const I32: u8 = 5;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const STRUCT: u8 = 12;

/// Reads the compact protocol; `None` where the bytes end or are none.
struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The type of the next field of a struct, whose number goes to `id`; `Some(None)` at the end of the struct.
    #[allow(clippy::option_option, reason = "the bytes end, or the struct does")]
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        *id = if byte >> 4 == 0 { self.integer()? } else { id.checked_add(i64::from(byte >> 4))? };
        Some(Some(byte & 0x0f))
    }

    fn advance(&mut self, bytes: u64) -> Option<()> {
        self.at = self.at.checked_add(usize::try_from(bytes).ok()?).filter(|&at| at <= self.bytes.len())?;
        Some(())
    }

    fn skip(&mut self, kind: u8, depth: u32) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            1 | 2 => Some(()), // a boolean is its type
            BYTE => self.advance(1),
            4..=6 => self.varint().map(drop),
            DOUBLE => self.advance(8),
            BINARY => {
                let length = self.varint()?;
                self.advance(length)
            }
            9 | 10 => {
                let head = self.byte()?;
                let length = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                (0..length).try_for_each(|_| match head & 0x0f {
                    1 | 2 => self.advance(1),
                    kind => self.skip(kind, depth),
                })
            }
            STRUCT => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth)?;
                }
                Some(())
            }
            _ => None, // maps: no header has one
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_and_its_statistics_are_passed_over() {
        // type 0, unpacked 300, packed 20, data page header { 7 values, …, statistics { "ab" } }
        let header =
            [0x15, 0, 0x15, 0xd8, 4, 0x15, 40, 0x2c, 0x15, 14, 0x15, 0, 0x2c, 0x18, 2, b'a', b'b', 0, 0, 0, 99];
        let page = Page::read(&header).unwrap();
        assert_eq!(page, Page { dictionary: false, header: 20, unpacked: 300, packed: 20, values: 7 });
        for end in 0..20 {
            assert_eq!(Page::read(&header[..end]), None);
        }
        assert_eq!(Page::read(&[0x1c; 40]), None, "too deep");
    }
}
