//! The sizes of Parquet pages, read from their headers before a page is unpacked: a page is held in memory whole.
//!
//! Of a nested column the library also makes all values of a row before it hands the row over: their number is bounded by
//! the pages' sizes alone, and the limit of a record is applied after that, when the row is written as JSON.
//!
//! A header is a Thrift struct in the compact protocol; of it only type, sizes and the number of values matter here.

use super::split::LARGEST_RECORD;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::ChunkReader;
use std::fs::File;

/// A page may not be larger: it is held twice while it is unpacked. The writers' usual size is 1 MiB.
const LARGEST_PAGE: u64 = 256 << 20;
/// Bytes that are read of a header, the second where the first do not hold it: statistics, whole values among them, can
/// make it longer than a few dozen.
const HEADER_BYTES: [u64; 2] = [16 << 10, 1 << 20];
/// Structs in structs, deeper than any header has.
const DEEPEST: u32 = 8;

/// A page that does not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge {
    /// Its size when it is unpacked.
    pub(super) bytes: u64,
    /// Values of the column before it, in its row group; none for a dictionary, whose values belong to no row.
    pub(super) before: Option<u64>,
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
        let page = HEADER_BYTES.into_iter().find_map(|bytes| {
            let head = file.get_bytes(at, bytes.min(file_bytes - at) as usize).ok()?;
            Page::read(&head)
        })?;
        let value = page.unpacked / page.values.max(1) > LARGEST_RECORD as u64;
        if value || page.unpacked > LARGEST_PAGE {
            return Some(TooLarge { bytes: page.unpacked, before: (!page.dictionary).then_some(before), value });
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

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    /// A page without bytes: its header says how large it would be, how many values it has, and a minimum.
    fn page(dictionary: bool, unpacked: u64, values: u64, minimum: usize) -> Vec<u8> {
        let integer = |value: u64| varint(value << 1);
        let mut bytes = [&[0x15][..], &integer(if dictionary { 2 } else { 0 }), &[0x15], &integer(unpacked)].concat();
        bytes.extend([0x15, 0]);
        let inner = [&[0x15][..], &integer(values)].concat();
        match dictionary {
            true => bytes.extend([&[0x4c][..], &inner, &[0, 0]].concat()),
            false => {
                let statistics = [&[0x4c, 0x18][..], &varint(minimum as u64), &vec![b'x'; minimum], &[0]].concat();
                bytes.extend([&[0x2c][..], &inner, &statistics, &[0, 0]].concat());
            }
        }
        bytes
    }

    fn first_too_large(pages: &[Vec<u8>]) -> Option<TooLarge> {
        use parquet::schema::{parser::parse_message_type, types::SchemaDescriptor};
        let schema = parse_message_type("message row { required binary text; }").unwrap();
        let column = SchemaDescriptor::new(schema.into()).column(0);
        let bytes = pages.concat();
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let column = ColumnChunkMetaData::builder(column)
            .set_data_page_offset(0)
            .set_total_compressed_size(bytes.len() as i64)
            .build()
            .unwrap();
        too_large(&file, bytes.len() as u64, &column)
    }

    #[test]
    fn a_page_is_found_behind_others_whose_headers_are_long() {
        for minimum in [2, 20_000, 500_000] {
            let pages =
                [page(true, 1000, 5, 0), page(false, 1000, 700, minimum), page(false, LARGEST_PAGE + 1, 9, minimum)];
            let found = TooLarge { bytes: LARGEST_PAGE + 1, before: Some(700), value: false };
            assert_eq!(first_too_large(&pages), Some(found), "{minimum}");
            assert_eq!(first_too_large(&pages[..2]), None);
        }
    }

    #[test]
    fn a_dictionary_belongs_to_no_row() {
        for (values, value) in [(2, true), (1_000_000, false)] {
            let found = TooLarge { bytes: LARGEST_PAGE + 1, before: None, value };
            assert_eq!(first_too_large(&[page(true, LARGEST_PAGE + 1, values, 0)]), Some(found));
        }
    }
}
