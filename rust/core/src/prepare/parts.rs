//! Parts: what is made, stored and, after an interruption, found again.
//!
//! A file's records are cut into parts by their size alone; a part becomes at most one shard. So the shards depend
//! neither on the threads, nor on the process that made them, nor on how often the work was started again. Each part leaves
//! a report beside its shard, and each file one when its end is known; the folder is whole when all of them are there.

use super::options::Source;
use super::rejected::{self, Rejected};
use super::report::Tally;
use super::rows::Batch;
use crate::dataset::{ShardEntry, ShardFile, Written, remember_written};
use crate::durable::{WorkingFolder, unfinished, write_whole};
use crate::error::{Error, Result};
use crate::threads;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// The folder of the reports, inside the working folder.
const FOLDER: &str = "parts";

/// What became of one part.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PartReport {
    /// Its shard; none if no row was kept.
    pub(super) shard: Option<ShardEntry>,
    /// Its counts.
    pub(super) tally: Tally,
    /// Size of the list of its rejected rows, which lies beside.
    rejected_bytes: u64,
}

/// What is known of a file once it was read to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileReport {
    pub(super) rows: u64,
    pub(super) parts: u32,
    pub(super) format: String,
}

/// The parts of a working folder.
pub(super) struct Parts<'f> {
    folder: &'f WorkingFolder,
    /// Of each file: its report, and which of its parts are done.
    files: Vec<FileState>,
}

#[derive(Debug, Default)]
struct FileState {
    report: Option<FileReport>,
    done: BTreeMap<u32, PathBuf>,
}

impl<'f> Parts<'f> {
    /// Looks at what is there already. A report counts only with its shard, of the size it names; what is damaged is
    /// made again.
    pub(super) fn find(folder: &'f WorkingFolder, files: usize) -> Result<Self> {
        let reports = folder.path().join(FOLDER);
        std::fs::create_dir_all(&reports).map_err(Error::io("create", &reports))?;
        let mut parts = Self { folder, files: (0..files).map(|_| FileState::default()).collect() };
        for entry in std::fs::read_dir(&reports).map_err(Error::io("read", &reports))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(numbers) = name.strip_suffix(".json") else { continue };
            match numbers.split_once('-') {
                None => {
                    let state = numbers.parse().ok().and_then(|file: usize| parts.files.get_mut(file));
                    if let (Some(state), Some(report)) = (state, load(&entry.path())) {
                        state.report = Some(report);
                    }
                }
                Some((file, part)) => {
                    let (Ok(file), Ok(part)) = (file.parse::<usize>(), part.parse()) else { continue };
                    if file < files && parts.is_whole(&entry.path()) {
                        parts.files[file].done.insert(part, entry.path());
                    }
                }
            }
        }
        Ok(parts)
    }

    fn is_whole(&self, report: &Path) -> bool {
        let Some(PartReport { shard, rejected_bytes, .. }) = load(report) else { return false };
        let size = |path: &Path| path.metadata().map_or(0, |m| m.len());
        shard.is_none_or(|shard| size(&self.folder.path().join(&shard.file)) == shard.bytes)
            && size(&report.with_extension("rejected")) == rejected_bytes
    }

    /// The shard of a part that was built; none if no row was kept.
    pub(super) fn shard_of(folder: &WorkingFolder, number: (u32, u32)) -> Option<ShardEntry> {
        load::<PartReport>(&report_of(folder, number))?.shard
    }

    /// Whether a part is there.
    pub(super) fn has(&self, file: usize, part: u32) -> bool {
        self.files[file].done.contains_key(&part)
    }

    /// Whether any part of the working folder is done.
    pub(super) fn any(folder: &WorkingFolder) -> bool {
        let reports = std::fs::read_dir(folder.path().join(FOLDER)).into_iter().flatten().flatten();
        reports.map(|entry| entry.file_name()).any(|name| {
            let name = name.to_string_lossy();
            name.contains('-') && name.ends_with(".json")
        })
    }

    /// Parts that are there.
    pub(super) fn done(&self) -> usize {
        self.files.iter().map(|f| f.done.len()).sum()
    }

    /// Whether nothing of a file is missing.
    pub(super) fn has_all(&self, file: usize) -> bool {
        let state = &self.files[file];
        state.report.as_ref().is_some_and(|r| (0..r.parts).all(|part| state.done.contains_key(&part)))
    }

    /// The first thing that is missing, in words.
    pub(super) fn missing(&self, sources: &[Source]) -> Option<String> {
        let file = (0..self.files.len()).find(|&file| !self.has_all(file))?;
        let (state, path) = (&self.files[file], sources[file].path.display());
        Some(match &state.report {
            None => format!("`{path}` was not read to its end"),
            Some(report) => {
                let missing = (0..report.parts).filter(|part| !state.done.contains_key(part)).count();
                format!("{missing} of {} parts of `{path}` are not there", report.parts)
            }
        })
    }

    /// Stores what is known of a file at its end.
    pub(super) fn end_file(folder: &WorkingFolder, file: u32, report: &FileReport) -> Result<()> {
        store(&folder.path().join(FOLDER).join(format!("{file:05}.json")), report)
    }

    /// Adds up all parts, in order: counts, shards, and the rows and formats of the files. The rejected rows become
    /// one file.
    pub(super) fn join(&self, sources: &mut [Source]) -> Result<(Tally, Vec<ShardEntry>, String)> {
        let mut tally = Tally::default();
        let mut shards = Vec::new();
        let mut formats: Vec<&str> = Vec::new();
        let mut lists = Vec::new();
        for (state, source) in self.files.iter().zip(sources) {
            for report in state.done.values() {
                let part: PartReport = load(report).ok_or_else(|| vanished(report))?;
                if part.rejected_bytes > 0 {
                    lists.push(report.with_extension("rejected"));
                }
                tally.append(part.tally);
                shards.extend(part.shard);
            }
            if let Some(report) = &state.report {
                source.rows = report.rows;
                if !formats.contains(&report.format.as_str()) {
                    formats.push(&report.format);
                }
            }
        }
        if !lists.is_empty() {
            write_whole(&self.folder.path().join(rejected::FILE), true, |all| {
                lists.iter().try_for_each(|list| std::io::copy(&mut File::open(list)?, all).map(drop))
            })?;
        }
        Ok((tally, shards, formats.join("+")))
    }

    /// Removes the reports: the last thing before the folder is put in its place.
    pub(super) fn remove_reports(folder: &WorkingFolder) -> Result<()> {
        match std::fs::remove_dir_all(folder.path().join(FOLDER)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", folder.path())(error))
            }
            _ => Ok(()),
        }
    }
}

fn vanished(report: &Path) -> Error {
    Error::File {
        path: report.to_path_buf(),
        problem: "vanished while it was needed".to_owned(),
        hint: "run again; does another process remove files there?".to_owned(),
    }
}

fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Not flushed: a report that a power failure took is made again, and its shard with it.
fn store(path: &Path, value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_vec(value).map_err(|e| Error::Option { problem: e.to_string() })?;
    write_whole(path, false, |file| file.write_all(&json))
}

/// One part in the making.
pub(super) struct PartWriter<'f> {
    folder: &'f WorkingFolder,
    /// Number of the file, and of the part in it.
    pub(super) number: (u32, u32),
    shard: Option<ShardFile>,
    rejected: Rejected,
    tally: Tally,
}

impl<'f> PartWriter<'f> {
    pub(super) fn begin(folder: &'f WorkingFolder, number: (u32, u32)) -> Self {
        let rejected = Rejected::new(unfinished(&report_of(folder, number).with_extension("rejected")));
        Self { folder, number, shard: None, rejected, tally: Tally::default() }
    }

    pub(super) fn add(&mut self, batch: &Batch, sources: &[Source]) -> Result<()> {
        self.tally.add(batch, sources, &mut self.rejected.lines);
        self.rejected.flush_some()?;
        if batch.samples.is_empty() {
            return Ok(());
        }
        let shard = match &mut self.shard {
            Some(shard) => shard,
            None => {
                let path = unfinished(&self.folder.path().join(shard_name(self.number)));
                self.shard.insert(ShardFile::create(&path, self.number.0)?)
            }
        };
        shard.append(&batch.samples)
    }

    /// All rows are in: what is left is to flush and to store, which need not be waited for.
    pub(super) fn end(self) -> Result<EndedPart> {
        let report = report_of(self.folder, self.number);
        let name = shard_name(self.number);
        let place = self.folder.path().join(&name);
        let shard = self.shard.map(|shard| shard.finish(name)).transpose()?;
        let entry = shard.as_ref().map(|shard| shard.entry.clone());
        let (rejected, rejected_bytes) = self.rejected.finish()?;
        let rejected = rejected.map(|file| (file, report.with_extension("rejected")));
        let content = PartReport { shard: entry, tally: self.tally, rejected_bytes };
        Ok(EndedPart { shard: shard.map(|shard| (shard, place)), rejected, report, content })
    }
}

fn shard_name((file, part): (u32, u32)) -> String {
    format!("shard-{file:05}-{part:05}.safetensors")
}

/// The file and the part that a shard was made from.
pub(super) fn part_of(shard: &str) -> Option<(u32, u32)> {
    let (file, part) = shard.strip_prefix("shard-")?.strip_suffix(".safetensors")?.split_once('-')?;
    Some((file.parse().ok()?, part.parse().ok()?))
}

fn report_of(folder: &WorkingFolder, (file, part): (u32, u32)) -> PathBuf {
    folder.path().join(FOLDER).join(format!("{file:05}-{part:05}.json"))
}

/// A part of which every byte is written.
pub(super) struct EndedPart {
    shard: Option<(Written, PathBuf)>,
    rejected: Option<(File, PathBuf)>,
    report: PathBuf,
    content: PartReport,
}

impl EndedPart {
    fn store(self) -> Result<()> {
        if let Some((Written { file, entry, largest_id }, path)) = self.shard {
            place(&file, &path)?;
            remember_written(&path, entry.blake3, largest_id);
        }
        if let Some((file, path)) = self.rejected {
            place(&file, &path)?;
        }
        store(&self.report, &self.content)
    }
}

/// Flushes a file to disk and gives it its name.
fn place(file: &File, path: &Path) -> Result<()> {
    let placed = file.sync_all().and_then(|()| std::fs::rename(unfinished(path), path));
    placed.map_err(Error::io("write", path))
}

/// Stores ended parts beside the work: a slow disk is waited for only at the end.
pub(super) struct Storing {
    send: SyncSender<EndedPart>,
    handle: JoinHandle<Result<()>>,
}

impl Storing {
    /// # Errors
    ///
    /// [`Error::Option`] if its thread cannot be started.
    pub(super) fn begin() -> Result<Self> {
        let (send, receive) = sync_channel::<EndedPart>(1);
        let handle = threads::start(move || receive.into_iter().try_for_each(EndedPart::store))?;
        Ok(Self { send, handle })
    }

    /// `false` after a failure, which [`end`](Self::end) tells.
    pub(super) fn store(&self, part: EndedPart) -> bool {
        self.send.send(part).is_ok()
    }

    pub(super) fn end(self) -> Result<()> {
        drop(self.send);
        self.handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
