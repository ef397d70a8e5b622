//! The pipeline: read → parse → render → encode → truncate → write, on all cores, in one pass, in bounded memory.
//!
//! A reader thread stays a few chunks ahead; the records of a chunk are shared out in batches; batches are added up in
//! file order, so the bytes do not depend on the number of threads.

mod options;
mod reasons;
mod rejected;
mod report;
mod rows;

pub use options::{DATA_PATH_VERSION, Identity, Options, Source};
pub use reasons::{NOTICES, REASONS, REPAIRS};
pub use rejected::Rejected;
pub use report::{DroppedRow, EngineReport, Manifest, Report, Tally, TruncatedRow};
pub use rows::{Batch, Counts, RowMaker};

use crate::dataset::ShardWriter;
use crate::durable::NewFolder;
use crate::encode::Encoder;
use crate::error::{Error, Result};
use crate::record::{self, Format, reader::Chunk, reader::Reader};
use crate::tokenizer::Tokenizer;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

/// Version of the folder's layout.
const FORMAT_VERSION: u32 = 1;
/// Records that a thread takes at a time.
const BATCH_RECORDS: usize = 128;
/// Records that are looked at to learn a file's format.
const PROBED_RECORDS: usize = 16;
const CHUNKS_AHEAD: usize = 2;

/// Told (stage, bytes done, bytes in all) now and then; returns whether to go on.
pub type Tick<'a> = dyn FnMut(&'static str, u64, u64) -> bool + 'a;

/// Prepares the data, or finds it prepared.
///
/// # Errors
///
/// Any [`Error`]; nothing is left behind then.
pub fn prepare(options: &Options, tick: &mut Tick<'_>) -> Result<Report> {
    let started = Instant::now();
    let mut seconds = BTreeMap::new();
    if options.data.is_empty() {
        return Err(Error::Option { problem: "there is no data to prepare".to_owned() });
    }
    let template = options.chat_template()?;
    let identity = options.identify()?;
    seconds.insert("fingerprint", started.elapsed().as_secs_f64());
    if let Some(manifest) = existing(&options.out, &identity.fingerprint)? {
        seconds.insert("total", started.elapsed().as_secs_f64());
        let engine = EngineReport { name: "none".to_owned(), reason: Some("prepared before".to_owned()) };
        return Ok(Report { path: options.out.clone(), manifest, reused: true, engine, seconds });
    }

    let loading = Instant::now();
    let tokenizer = Tokenizer::load(&options.tokenizer, options.engine)?;
    seconds.insert("load_tokenizer", loading.elapsed().as_secs_f64());
    let maker = RowMaker { options, encoder: Encoder::new(template, &tokenizer, options.eos_token.as_deref())? };

    let working = Instant::now();
    let folder = NewFolder::create(&options.out)?;
    let mut writer = ShardWriter::new(&folder);
    let mut rejected = Rejected::new(&folder, rejected::FILE);
    let mut tally = Tally::default();
    let mut sources = identity.sources;
    let formats = read_all(&maker, &mut sources, &mut writer, &mut tally, &mut rejected, tick)?;
    let shards = writer.finish()?;
    rejected.finish()?;
    seconds.insert("rows", working.elapsed().as_secs_f64());

    let mut manifest = tally.finish();
    if manifest.rows_kept == 0 {
        return Err(nothing_survives(&manifest));
    }
    manifest.format_version = FORMAT_VERSION;
    manifest.fingerprint = identity.fingerprint;
    manifest.format = formats;
    manifest.template = template.name.to_owned();
    manifest.cutoff_len = options.cutoff_len;
    manifest.sources = sources;
    manifest.shards = shards;
    let json = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::Option { problem: e.to_string() })?;
    folder.write("manifest.json", &[&json])?;
    folder.commit()?;
    seconds.insert("total", started.elapsed().as_secs_f64());
    let engine =
        EngineReport { name: tokenizer.engine().name().to_owned(), reason: tokenizer.reason().map(str::to_owned) };
    Ok(Report { path: options.out.clone(), manifest, reused: false, engine, seconds })
}

/// Runs every file through `maker`; the formats that were found.
fn read_all(
    maker: &RowMaker<'_>,
    sources: &mut [Source],
    writer: &mut ShardWriter<'_>,
    tally: &mut Tally,
    rejected: &mut Rejected<'_>,
    tick: &mut Tick<'_>,
) -> Result<String> {
    let options = maker.options;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build()
        .map_err(|e| Error::Option { problem: format!("cannot start threads: {e}") })?;
    let all: u64 = sources.iter().map(|s| s.bytes).sum();
    let mut before = 0;
    let mut formats: Vec<&str> = Vec::new();
    let limit = options.max_samples.unwrap_or(u64::MAX);
    for index in 0..sources.len() {
        let path = sources[index].path.clone();
        let mut format = options.format;
        let mut rows = 0;
        let digest = with_reader(&path, |chunk, bytes_read| {
            let mut records = &chunk.records[..];
            records = &records[..records.partition_point(|r| r.row < limit)];
            if format.is_none() {
                format = Some(detect(&path, &chunk)?);
            }
            let batches: Vec<Result<Batch>> = pool.install(|| {
                records
                    .par_chunks(BATCH_RECORDS)
                    .map(|part| maker.make(&path, index as u32, format, &chunk.bytes, part))
                    .collect()
            });
            for batch in batches {
                let batch = batch?;
                if let (true, Some(first)) = (options.strict, batch.dropped.first()) {
                    return Err(Error::Strict {
                        file: path.display().to_string(),
                        line: first.origin.line,
                        row: first.origin.row,
                        reason: first.reason.clone(),
                    });
                }
                tally.add(&batch, sources, &mut rejected.lines);
                rejected.flush_some()?;
                for (sample, origin) in &batch.samples {
                    writer.push(sample, *origin)?;
                }
            }
            rows += records.len() as u64;
            if !tick("preparing", before + bytes_read, all) {
                return Err(Error::Interrupted);
            }
            Ok(records.len() == chunk.records.len())
        })?;
        if digest.is_some_and(|d| d.to_hex().as_str() != sources[index].blake3) {
            return Err(Error::File {
                path,
                problem: "changed while it was read".to_owned(),
                hint: "run again when nothing writes to it".to_owned(),
            });
        }
        if rows == 0 {
            return Err(Error::File {
                path,
                problem: "holds no records".to_owned(),
                hint: "it should hold records, as a JSON array or one JSON object a line".to_owned(),
            });
        }
        sources[index].rows = rows;
        before += sources[index].bytes;
        let name = format.map_or("auto", Format::name);
        if !formats.contains(&name) {
            formats.push(name);
        }
    }
    Ok(formats.join("+"))
}

/// Hands the chunks of a file to `work`, in order, while a thread reads on; `work` returns whether it wants more.
/// The hash of the file, if it was read to its end.
fn with_reader(path: &Path, mut work: impl FnMut(Chunk, u64) -> Result<bool>) -> Result<Option<blake3::Hash>> {
    let mut reader = Reader::open(path)?;
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel(CHUNKS_AHEAD);
        let handle = scope.spawn(move || {
            while let Some(chunk) = reader.next() {
                if send.send((chunk, reader.bytes_read())).is_err() {
                    return None;
                }
            }
            Some(reader.digest())
        });
        for (chunk, bytes_read) in &receive {
            if !work(chunk?, bytes_read)? {
                break;
            }
        }
        drop(receive);
        Ok(handle.join().unwrap_or(None))
    })
}

fn detect(path: &Path, chunk: &Chunk) -> Result<Format> {
    let mut keys: Vec<String> = Vec::new();
    for span in chunk.records.iter().take(PROBED_RECORDS) {
        let text = rows::text_of(path, &chunk.bytes, span)?;
        let (format, others) = record::detect(text).map_err(|error| rows::syntax(path, span, &error))?;
        if let Some(format) = format {
            return Ok(format);
        }
        keys.extend(others.into_iter().filter(|k| !keys.contains(k)).collect::<Vec<_>>());
    }
    let found = if keys.is_empty() { "no keys".to_owned() } else { format!("the keys {}", keys.join(", ")) };
    Err(Error::File {
        path: path.to_path_buf(),
        problem: format!("is in no known format: its first records have {found}"),
        hint: "expected `instruction` and `output` (Alpaca), `conversations` (ShareGPT) or `messages`".to_owned(),
    })
}

/// The manifest of a folder that holds exactly this; an error if the place is taken by something else.
fn existing(out: &Path, fingerprint: &str) -> Result<Option<Manifest>> {
    let taken = |problem: &str| Error::Artifact {
        path: out.to_path_buf(),
        problem: problem.to_owned(),
        hint: "give another folder with --out, or move this one away; nothing was touched",
    };
    let manifest = match std::fs::read(out.join("manifest.json")) {
        Ok(bytes) => serde_json::from_slice::<Manifest>(&bytes).ok(),
        Err(_) if std::fs::read_dir(out).is_ok_and(|mut d| d.next().is_none()) => return Ok(None),
        Err(_) if !out.exists() => return Ok(None),
        Err(_) => None,
    };
    let manifest = manifest.ok_or_else(|| taken("is not empty, and not a prepared dataset"))?;
    if manifest.fingerprint != fingerprint {
        return Err(taken("holds other prepared data"));
    }
    let whole = manifest.shards.iter().all(|s| out.join(&s.file).metadata().is_ok_and(|m| m.len() == s.bytes));
    if whole { Ok(Some(manifest)) } else { Err(taken("is a prepared dataset with a damaged shard")) }
}

/// The manifest of a prepared folder.
///
/// # Errors
///
/// [`Error::Artifact`] if it is none.
pub fn manifest(folder: &Path) -> Result<Manifest> {
    let bytes =
        std::fs::read(folder.join("manifest.json")).map_err(Error::io("read", &folder.join("manifest.json")))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Artifact {
        path: folder.to_path_buf(),
        problem: format!("is no prepared dataset of this version: {error}"),
        hint: "prepare the data again",
    })
}

fn nothing_survives(manifest: &Manifest) -> Error {
    let reasons: Vec<_> = manifest.rows_dropped.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    let first = manifest.dropped_examples.first();
    Error::NothingSurvives {
        rows: manifest.rows_read,
        reasons: reasons.join(", "),
        first: first
            .map_or(String::new(), |r| format!("{}:{} (row {}): {}", r.file.display(), r.line, r.row, r.reason)),
    }
}
