//! Builds the parts that are missing: the pipeline's batches go into the part that they belong to.

use super::options::{Options, Source};
use super::parts::{FileReport, PartWriter, Parts, Storing};
use super::pipeline::{self, Event, FileEnd, Wanted};
use super::progress::{Seconds, Tick};
use super::report::EngineReport;
use super::rows::{Batch, RowMaker};
use crate::dataset::Origin;
use crate::durable::WorkingFolder;
use crate::encode::Encoder;
use crate::error::{Error, Rejection, Result};
use crate::record::{Format, reader::is_plain};
use crate::tokenizer::Tokenizer;
use std::path::Path;
use std::time::Instant;

/// The share of the work that one of several processes does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// 0-based number.
    pub(super) index: u32,
    /// How many there are.
    pub(super) count: u32,
}

impl Share {
    /// All of it.
    pub(super) const WHOLE: Self = Self { index: 0, count: 1 };

    /// Whether a part belongs to the share. Known from the part's own numbers, without reading the files
    /// before to know which part of the whole it is.
    fn has(self, file: usize, part: u32) -> bool {
        (file as u64 + u64::from(part)) % u64::from(self.count) == u64::from(self.index)
    }

    /// Whether the share can have a part of a file with at most so many.
    fn has_any(self, file: usize, parts: u64) -> bool {
        let parts = u32::try_from(parts.min(u64::from(self.count))).unwrap_or(u32::MAX);
        (0..parts).any(|part| self.has(file, part))
    }
}

/// Which files have to be read, and which of their parts are built.
pub(super) struct Selection<'a> {
    pub(super) file: &'a (dyn Fn(usize) -> bool + Sync),
    pub(super) part: &'a (dyn Fn(usize, u32) -> bool + Sync),
}

/// Builds the parts of a share that are not there yet; returns the engine that ran.
pub(super) fn build_missing(
    options: &Options,
    sources: &[Source],
    folder: &WorkingFolder,
    parts: &Parts<'_>,
    share: Share,
    seconds: &mut Seconds,
    tick: &mut Tick<'_>,
) -> Result<EngineReport> {
    let to_make = |file: usize| {
        let most = || most_parts(&options.data[file].path, &sources[file], options.part_bytes.max(1));
        !parts.has_all(file) && (share == Share::WHOLE || share.has_any(file, most()))
    };
    if !(0..sources.len()).any(to_make) {
        return Ok(EngineReport::not_needed("all parts were there"));
    }
    let part = |file, part| share.has(file, part) && !parts.has(file, part);
    build(options, sources, folder, &Selection { file: &to_make, part: &part }, seconds, tick)
}

/// Builds the selected parts; returns the engine that ran.
pub(super) fn build(
    options: &Options,
    sources: &[Source],
    folder: &WorkingFolder,
    selection: &Selection<'_>,
    seconds: &mut Seconds,
    tick: &mut Tick<'_>,
) -> Result<EngineReport> {
    let loading = Instant::now();
    let tokenizer = Tokenizer::load(&options.tokenizer, options.engine, options.cache.as_deref())?;
    seconds.insert("load_tokenizer", loading.elapsed().as_secs_f64());
    let template = options.chat_template()?;
    let encoder = Encoder::new(&template, &tokenizer, options.eos_token.as_deref())?;
    let maker = RowMaker { options, encoder };

    let working = Instant::now();
    let everything = options.rows_depend_on_files_before();
    let file = |file: usize| everything || (selection.file)(file);
    let wanted = Wanted { sources, part_bytes: options.part_bytes.max(1), file: &file, part: selection.part };
    let mut writing = Writing { options, sources, folder, open: None, storing: Storing::begin()? };
    let all = sources.iter().map(|s| s.bytes).sum();
    let ran = pipeline::run(&maker, &wanted, |event| writing.take(event), |done| tick("preparing", done, all));
    // What was ended is stored even when the work was not; and why a part could not be stored comes first.
    writing.storing.end()?;
    ran?;
    seconds.insert("rows", working.elapsed().as_secs_f64());
    Ok(EngineReport { name: Some(tokenizer.engine().name()), reason: tokenizer.reason().map(str::to_owned) })
}

/// How many parts a file can have at most. Of a packed file that is not known before it is unpacked.
fn most_parts(path: &Path, source: &Source, part_bytes: u64) -> u64 {
    if is_plain(path) { source.bytes.div_ceil(part_bytes) } else { u64::MAX }
}

struct Writing<'a> {
    options: &'a Options,
    sources: &'a [Source],
    folder: &'a WorkingFolder,
    open: Option<PartWriter<'a>>,
    storing: Storing,
}

impl Writing<'_> {
    fn take(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Batch(batch) => self.add(batch),
            Event::EndOfFile(end) => self.end_file(&end),
        }
    }

    fn add(&mut self, batch: &Batch) -> Result<()> {
        let source = &self.sources[batch.part.0 as usize];
        if let (true, Some(first)) = (self.options.strict, batch.dropped.iter().find(|d| d.first.is_none())) {
            let Origin { line, row, .. } = first.origin;
            let (path, reason) = (source.path.clone(), first.reason.clone());
            return Err(Error::Strict(Box::new(Rejection { path, line, row, reason })));
        }
        if self.open.as_ref().is_some_and(|part| part.number != batch.part) {
            self.end_part()?;
        }
        self.open.get_or_insert_with(|| PartWriter::begin(self.folder, batch.part)).add(batch, self.sources)
    }

    fn end_part(&mut self) -> Result<()> {
        let Some(part) = self.open.take() else { return Ok(()) };
        // After a failure to store there is nothing more to do; its reason is told at the end.
        if self.storing.store(part.end()?) { Ok(()) } else { Err(Error::Interrupted { kept: None }) }
    }

    fn end_file(&mut self, end: &FileEnd) -> Result<()> {
        let source = &self.sources[end.file as usize];
        let fault = |problem: &str, hint: &str| Error::File {
            path: source.path.clone(),
            problem: problem.to_owned(),
            hint: hint.to_owned(),
        };
        if end.digest.is_some_and(|digest| digest.to_hex().as_str() != source.blake3) {
            return Err(fault("changed while it was read", "run again when nothing writes to it"));
        }
        if end.rows == 0 && !end.unwanted {
            return Err(fault(
                "holds no records",
                "it should hold records, as a JSON array or one JSON object per line",
            ));
        }
        self.end_part()?;
        let format = end.format.map_or("auto", Format::name).to_owned();
        Parts::end_file(self.folder, end.file, &FileReport { rows: end.rows, parts: end.parts, format })
    }
}
