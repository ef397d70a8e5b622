//! Where bytes come from: a plain file or an archive, distinguished by their first bytes and never by their name.

use crate::error::{Error, Result};
use crate::regular_file;
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The kind of a file, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    /// Presumably text.
    Plain,
    Gzip,
    Zstd,
    Parquet,
}

/// Opens a regular file and looks at its first bytes.
pub(super) fn open(path: &Path, shown: &Path) -> Result<(File, Container)> {
    let mut file = regular_file::open(path, shown)?;
    let mut head = Vec::with_capacity(8);
    file.by_ref().take(8).read_to_end(&mut head).map_err(Error::io("read", shown))?;
    file.seek(SeekFrom::Start(0)).map_err(Error::io("read", shown))?;
    let container = match head[..] {
        [0x1f, 0x8b, ..] => Container::Gzip,
        // A frame, or a skippable one before it (0x184D2A50 … 5F).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Container::Zstd,
        [b'P', b'A', b'R', b'1', ..] => Container::Parquet,
        _ => match archive(&head) {
            Some(name) => {
                let hint = "unpack it first; read are JSON and JSONL, plain, .gz or .zst, and Parquet";
                return Err(refuse(shown, &format!("is {name}, which is not read"), hint));
            }
            None => Container::Plain,
        },
    };
    Ok((file, container))
}

/// Common archives and tables that are not supported.
fn archive(head: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 7] = [
        (b"PK\x03\x04", "a zip archive"),
        (b"BZh", "a bzip2 archive"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "an xz archive"),
        (&[0x37, 0x7a, 0xbc, 0xaf], "a 7z archive"),
        (&[0x04, 0x22, 0x4d, 0x18], "an lz4 archive"),
        (b"ARROW1", "an Arrow file"),
        (b"SQLite f", "an SQLite database"),
    ];
    KNOWN.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| *name)
}

pub(super) fn refuse(path: &Path, problem: &str, hint: &str) -> Error {
    Error::File { path: path.to_path_buf(), problem: problem.to_owned(), hint: hint.to_owned() }
}

/// A file whose bytes are counted and hashed as they are read.
struct Tap {
    file: File,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Read for Tap {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

enum Decoder {
    Plain(Box<Tap>),
    Gzip(Box<MultiGzDecoder<BufReader<Tap>>>),
    Zstd(Box<zstd::Decoder<'static, BufReader<Tap>>>),
}

/// The text of a file, unpacked.
pub(super) struct Stream {
    path: PathBuf,
    decoder: Decoder,
    unpacked: u64,
}

/// Bytes of an archive that are unpacked at a time.
const PACKED_BYTES: usize = 128 << 10;

impl Stream {
    pub(super) fn new(file: File, container: Container, shown: &Path) -> Result<Self> {
        let tap = Tap { file, hasher: blake3::Hasher::new(), bytes: 0 };
        let decoder = match container {
            Container::Gzip => {
                Decoder::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(PACKED_BYTES, tap))))
            }
            Container::Zstd => {
                let buffered = BufReader::with_capacity(PACKED_BYTES, tap);
                let decoder = zstd::Decoder::with_buffer(buffered).map_err(Error::io("unpack", shown))?;
                Decoder::Zstd(Box::new(decoder))
            }
            Container::Plain | Container::Parquet => Decoder::Plain(Box::new(tap)),
        };
        Ok(Self { path: shown.to_path_buf(), decoder, unpacked: 0 })
    }

    /// Appends up to `bytes` bytes of text; fewer only at the end.
    pub(super) fn fill(&mut self, into: &mut Vec<u8>, bytes: usize) -> Result<usize> {
        into.reserve(bytes);
        let limit = bytes as u64;
        let read = match &mut self.decoder {
            Decoder::Plain(tap) => tap.take(limit).read_to_end(into),
            Decoder::Gzip(decoder) => decoder.take(limit).read_to_end(into),
            Decoder::Zstd(decoder) => decoder.take(limit).read_to_end(into),
        };
        let read = read.map_err(|error| self.damage(error))?;
        self.unpacked += read as u64;
        Ok(read)
    }

    /// Bytes read from the file.
    pub(super) fn bytes_read(&self) -> u64 {
        self.tap().bytes
    }

    /// Hash of the bytes read from the file.
    pub(super) fn digest(&self) -> blake3::Hash {
        self.tap().hasher.finalize()
    }

    fn tap(&self) -> &Tap {
        match &self.decoder {
            Decoder::Plain(tap) => tap,
            Decoder::Gzip(decoder) => decoder.get_ref().get_ref(),
            Decoder::Zstd(decoder) => decoder.get_ref().get_ref(),
        }
    }

    /// The error for a failed read: of the disk, or of a damaged archive.
    fn damage(&self, error: io::Error) -> Error {
        let (kind, check) = match &self.decoder {
            Decoder::Plain(_) => return Error::io("read", &self.path)(error),
            _ if error.raw_os_error().is_some() => return Error::io("read", &self.path)(error),
            Decoder::Gzip(_) => ("gzip", "gzip -t"),
            Decoder::Zstd(_) => ("zstd", "zstd -t"),
        };
        let whole = self.tap().file.metadata().map_or(0, |m| m.len());
        let at = self.tap().bytes;
        let name = self.path.display();
        if error.to_string().contains("too much memory") {
            let hint = format!("unpack it with `zstd -d --long=31 {name}`, or pack it again without --long");
            return refuse(&self.path, "is a zstd archive that takes more than 128 MiB of memory to unpack", &hint);
        }
        let problem = if error.kind() == io::ErrorKind::UnexpectedEof || error.to_string().contains("incomplete") {
            format!("is a {kind} archive that ends too early: its {whole} bytes hold only a part of the data")
        } else {
            format!("is a damaged {kind} archive: {error}, in its first {at} of {whole} bytes")
        };
        refuse(&self.path, &problem, &format!("copy or download it again; `{check} {name}` checks it"))
    }
}
