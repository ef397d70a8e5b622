//! All shards of a folder, opened: each one verified as far as asked for, several at a time.

use super::ShardEntry;
use super::read::{self, Depth, Fault, Shard};
use super::verified::{Facts, Verified};
use crate::error::{Error, Result};
use crate::file_state::FileState;
use crate::threads;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How often progress is reported while shards are read.
const TICK: Duration = Duration::from_millis(50);

/// What is verified when a prepared folder is opened. Sizes, headers, offsets and spans always are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Every byte has the hash that was stored when it was written, and every value lies in its range.
    #[default]
    Full,
    /// Every value lies in its range.
    Quick,
    /// Nothing more: token ids are not read.
    Off,
}

impl std::str::FromStr for Verify {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "full" => Ok(Self::Full),
            "quick" => Ok(Self::Quick),
            "off" => Ok(Self::Off),
            _ => Err(Error::Option { problem: format!("`verify` is full, quick or off, not `{name}`") }),
        }
    }
}

/// A shard that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its number.
    pub shard: usize,
    /// What is wrong with it, in words.
    pub problem: String,
}

/// The shards of a folder.
#[derive(Debug, Default)]
pub struct Opened {
    /// Those that can be used: all, if nothing is damaged.
    pub shards: Vec<Shard>,
    /// Those that cannot, in order.
    pub damaged: Vec<Damage>,
    /// Bytes that were read to verify them; 0: all was remembered.
    pub bytes_read: u64,
}

impl Opened {
    /// The largest token id, if every shard's is known.
    #[must_use]
    pub fn largest_id(&self) -> Option<u32> {
        let ids: Option<Vec<u32>> = self.shards.iter().map(|shard| shard.largest_id).collect();
        ids.map(|ids| ids.into_iter().max().unwrap_or(0))
    }

    /// The shards, or the error of the first damaged one.
    ///
    /// # Errors
    ///
    /// [`Error::Artifact`] naming the shard.
    pub fn whole(self, folder: &Path, entries: &[ShardEntry]) -> Result<Self> {
        match self.damaged.first() {
            Some(Damage { shard, problem }) => Err(read::damaged(&folder.join(&entries[*shard].file), problem)),
            None => Ok(self),
        }
    }
}

/// Opens the shards of a dataset that was made from `files` files. What was verified before and has not changed is
/// remembered in the folder `cache`.
///
/// # Errors
///
/// [`Error::Io`], and [`Error::Interrupted`] when `tick` says so. Damage is no error but reported.
pub fn open(
    folder: &Path,
    entries: &[ShardEntry],
    files: usize,
    verify: Verify,
    cache: Option<&Path>,
    tick: &mut (dyn FnMut(&'static str, u64, u64) -> bool + '_),
) -> Result<Opened> {
    let mut verified = Verified::load(cache.filter(|_| verify != Verify::Off), folder);
    let jobs: Vec<Job<'_>> = entries.iter().map(|entry| Job::new(folder, entry, verify, &verified)).collect();
    let total = jobs.iter().filter(|job| job.depth > Depth::Lengths).map(|job| job.entry.bytes).sum();
    let results = run(folder, files, &jobs, total, tick)?;
    let mut opened = Opened { bytes_read: total, ..Opened::default() };
    for (number, (job, result)) in jobs.into_iter().zip(results).enumerate() {
        match result {
            Ok(mut shard) => {
                if let (Some(largest_id), Depth::Ranges | Depth::Hash) = (shard.largest_id, job.depth) {
                    let blake3 = if job.depth == Depth::Hash { job.entry.blake3.clone() } else { String::new() };
                    verified.remember(
                        &folder.join(&job.entry.file),
                        job.state,
                        job.entry,
                        Facts { blake3, largest_id },
                    );
                }
                shard.largest_id = shard.largest_id.or(job.known.map(|facts| facts.largest_id));
                opened.shards.push(shard);
            }
            Err(problem) => opened.damaged.push(Damage { shard: number, problem }),
        }
    }
    verified.store();
    Ok(opened)
}

/// One shard to be read, and how much of it.
struct Job<'a> {
    entry: &'a ShardEntry,
    state: Option<FileState>,
    known: Option<Facts>,
    depth: Depth,
}

impl<'a> Job<'a> {
    fn new(folder: &Path, entry: &'a ShardEntry, verify: Verify, verified: &Verified) -> Self {
        let state = FileState::of(&folder.join(&entry.file));
        let known = verified.facts(state.as_ref(), entry, verify == Verify::Full);
        let depth = match verify {
            _ if known.is_some() => Depth::Lengths,
            Verify::Full => Depth::Hash,
            Verify::Quick => Depth::Ranges,
            Verify::Off => Depth::Lengths,
        };
        Self { entry, state, known, depth }
    }
}

type Outcome = std::result::Result<Shard, String>;

/// Reads the shards on as many threads as there are cores; the caller's thread reports progress.
fn run(
    folder: &Path,
    files: usize,
    jobs: &[Job<'_>],
    total: u64,
    tick: &mut (dyn FnMut(&'static str, u64, u64) -> bool + '_),
) -> Result<Vec<Outcome>> {
    let (next, done, stop) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let count = |job: &Job<'_>, bytes: u64| {
        if job.depth > Depth::Lengths {
            done.fetch_add(bytes, Ordering::Relaxed);
        }
        !stop.load(Ordering::Relaxed)
    };
    let work = |job: &Job<'_>| read::shard(folder, job.entry, files, job.depth, &mut |bytes| count(job, bytes));
    let count_of_threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    let (send, receive) = channel();
    let mut outcomes: Vec<Option<Outcome>> = jobs.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        let (next, work) = (&next, &work);
        threads::start_up_to(scope, count_of_threads, || {
            let send = send.clone();
            move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(number) else { return };
                    if send.send((number, work(job))).is_err() {
                        return;
                    }
                }
            }
        })?;
        drop(send);
        loop {
            if !stop.load(Ordering::Relaxed) && !tick("verifying", done.load(Ordering::Relaxed), total) {
                stop.store(true, Ordering::Relaxed);
            }
            match receive.recv_timeout(TICK) {
                Ok((_, Err(Fault::Io(error)))) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
                Ok((number, Err(Fault::Damaged(problem)))) => outcomes[number] = Some(Err(problem)),
                Ok((number, Ok(Some(shard)))) => outcomes[number] = Some(Ok(shard)),
                Ok((_, Ok(None))) => {}
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let all: Option<Vec<Outcome>> = outcomes.into_iter().collect();
        all.ok_or(Error::Interrupted { kept: None })
    })
}
