//! The layout of a shard: its columns, their types and shapes, and the header that says where each lies.
//!
//! docs/format.md specifies it for other programs; a test compares that page with what is written.

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

/// Version of a prepared folder's layout.
pub const FORMAT_VERSION: u32 = 2;
/// Bytes before the columns. Fixed, because the header is known only when all columns are.
pub(super) const HEADER_BYTES: usize = 1024;
/// The longest header that is read: one of nine columns needs about 700 bytes.
const LONGEST_HEADER: u64 = 1 << 20;

/// A column of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Column {
    /// Tokens, sample after sample.
    InputIds,
    /// Index into the manifest's `sources`.
    RecordFile,
    /// Aligns what follows.
    Padding,
    /// Where each sample begins among the tokens.
    SampleOffsets,
    /// Where each sample begins among the spans.
    SpanOffsets,
    /// 0-based row in its file.
    RecordIndex,
    /// 1-based line in its file.
    RecordLine,
    /// Hash of the first user turn.
    RecordQuestion,
    /// Supervised ranges.
    Spans,
}

impl Column {
    /// All of them, in the order in which they are written.
    pub(super) const ALL: [Self; 9] = [
        Self::InputIds,
        Self::RecordFile,
        Self::Padding,
        Self::SampleOffsets,
        Self::SpanOffsets,
        Self::RecordIndex,
        Self::RecordLine,
        Self::RecordQuestion,
        Self::Spans,
    ];

    /// Its name in the header.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InputIds => "input_ids",
            Self::RecordFile => "record_file",
            Self::Padding => "padding",
            Self::SampleOffsets => "sample_offsets",
            Self::SpanOffsets => "span_offsets",
            Self::RecordIndex => "record_index",
            Self::RecordLine => "record_line",
            Self::RecordQuestion => "record_question",
            Self::Spans => "spans",
        }
    }

    /// Bytes of one number: all are signed integers, little-endian.
    #[must_use]
    pub fn width(self) -> usize {
        match self {
            Self::InputIds | Self::RecordFile | Self::Padding | Self::Spans => 4,
            Self::SampleOffsets | Self::SpanOffsets | Self::RecordIndex | Self::RecordLine | Self::RecordQuestion => 8,
        }
    }

    /// Whether a shard may lack it: `padding` where nothing has to be aligned, `record_question` where rows were not
    /// compared.
    pub(super) fn is_optional(self) -> bool {
        matches!(self, Self::Padding | Self::RecordQuestion)
    }

    pub(super) fn dtype(self) -> Dtype {
        if self.width() == 4 { Dtype::I32 } else { Dtype::I64 }
    }

    /// Its shape in a shard of that size.
    pub(super) fn shape(self, size: Size) -> Vec<usize> {
        let Size { samples, tokens, spans } = size;
        match self {
            Self::InputIds => vec![tokens],
            Self::Padding => vec![(tokens + samples) % 2],
            Self::SampleOffsets | Self::SpanOffsets => vec![samples + 1],
            Self::RecordFile | Self::RecordIndex | Self::RecordLine | Self::RecordQuestion => vec![samples],
            Self::Spans => vec![spans, 2],
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name() == name)
    }
}

/// How much a shard holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) samples: usize,
    pub(super) tokens: usize,
    pub(super) spans: usize,
}

/// Where a column lies in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Which one.
    pub column: Column,
    /// Its first byte in the file.
    pub offset: u64,
    /// Its size.
    pub bytes: u64,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// The header of a shard of that size: length, JSON and padding. Optional columns that hold no bytes are left out.
pub(super) fn header(size: Size, questions: bool) -> Vec<u8> {
    let mut entries = serde_json::Map::new();
    let format = format!("qlora-fast prepared {FORMAT_VERSION}");
    entries.insert("__metadata__".to_owned(), serde_json::json!({ "format": format }));
    let mut at = 0;
    for column in Column::ALL {
        let shape = column.shape(size);
        let bytes = shape.iter().product::<usize>() * column.width();
        if column.is_optional() && (bytes == 0 || (column == Column::RecordQuestion && !questions)) {
            continue;
        }
        let offsets = [at, at + bytes];
        let entry = serde_json::json!({ "dtype": column.dtype(), "shape": shape, "data_offsets": offsets });
        entries.insert(column.name().to_owned(), entry);
        at += bytes;
    }
    // Nine names and a few numbers: a shard would need far more than 10¹² tokens to outgrow the space kept for them.
    let mut json = serde_json::Value::Object(entries).to_string().into_bytes();
    json.resize(HEADER_BYTES - 8, b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    header
}

/// How many bytes of JSON follow the first eight bytes of a file of that size.
pub(super) fn header_length(first: [u8; 8], file_bytes: u64) -> Result<usize, String> {
    let length = u64::from_le_bytes(first);
    if length > LONGEST_HEADER || length + 8 > file_bytes {
        return Err(format!("its header would be {length} bytes long"));
    }
    Ok(length as usize)
}

/// The columns of a shard with `samples` samples and `tokens` tokens, in the order of the file.
///
/// # Errors
///
/// What is wrong with the header: not safetensors, another size than the file's, a column that is missing, unknown, of
/// another type or shape.
pub(super) fn placed(json: &[u8], file_bytes: u64, samples: u64, tokens: u64) -> Result<Vec<Placed>, String> {
    let metadata: Metadata = serde_json::from_slice(json).map_err(|error| format!("its header is damaged: {error}"))?;
    let begin = json.len() as u64 + 8;
    if metadata.data_len() as u64 + begin != file_bytes {
        return Err("its columns do not end where the file ends".to_owned());
    }
    let tensors = metadata.tensors();
    let spans = tensors.get(Column::Spans.name()).and_then(|info| info.shape.first().copied()).unwrap_or(0);
    let size = Size { samples: samples as usize, tokens: tokens as usize, spans };
    let mut placed = Vec::with_capacity(tensors.len());
    for (name, info) in &tensors {
        let column = Column::of(name).ok_or_else(|| format!("it has an unknown column `{name}`"))?;
        if info.dtype != column.dtype() || info.shape != column.shape(size) {
            return Err(format!("column `{name}` is {:?} {:?}", info.dtype, info.shape));
        }
        let TensorInfo { data_offsets: (from, to), shape, .. } = info;
        let (offset, bytes) = (begin + *from as u64, (to - from) as u64);
        placed.push(Placed { column, offset, bytes, shape: shape.clone() });
    }
    for column in Column::ALL {
        if !column.is_optional() && !placed.iter().any(|p| p.column == column) {
            return Err(format!("it has no column `{}`", column.name()));
        }
    }
    // Columns without bytes begin where the next one does.
    placed.sort_by_key(|p| (p.offset, p.bytes));
    Ok(placed)
}
