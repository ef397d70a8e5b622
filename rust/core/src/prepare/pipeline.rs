//! One pass over the files: a thread reads, every core makes samples, the caller gets the batches in file order.
//!
//! ```text
//!  reader ──(batch, records)──▶ workers ──(number, batch)──▶ in order ──▶ sink
//!    ▲                                                                     │
//!    └──────────────────────────── empty batches ◀─────────────────────────┘
//! ```
//!
//! There is a fixed number of batches. They bound the memory, keep their buffers from one round to the next, and hold
//! the reader back when the sink is slow or one record takes long.

use super::duplicates::{Duplicates, Mark};
use super::options::{Deduplicate, Source};
use super::records::{Portion, Records};
use super::rows::{Batch, RowMaker, Workspace};
use crate::error::{Error, Result};
use crate::record::{Chunk, Format, Layout};
use crate::threads;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bytes of records that a worker takes at a time.
const BATCH_BYTES: u64 = 64 << 10;
/// Batches for each worker, in work or waiting for their turn.
const BATCHES_EACH: usize = 8;
/// How long a caller who wants to stop may have to wait.
const TICK: Duration = Duration::from_millis(50);

/// What the sink is given, in file order.
pub(super) enum Event<'b> {
    /// Rows of one part.
    Batch(&'b Batch),
    /// A file was read to its end, or as far as it is wanted.
    EndOfFile(FileEnd),
}

/// What is known at the end of a file.
pub(super) struct FileEnd {
    pub(super) file: u32,
    pub(super) rows: u64,
    /// Whether the files of its dataset before it had all rows that are wanted.
    pub(super) unwanted: bool,
    pub(super) parts: u32,
    pub(super) format: Option<Format>,
    /// Hash of the file, if all of it was read.
    pub(super) digest: Option<blake3::Hash>,
}

/// What is to be read.
pub(super) struct Wanted<'a> {
    pub(super) sources: &'a [Source],
    pub(super) part_bytes: u64,
    /// Whether a file has to be read at all, and whether a part of it is to be made.
    pub(super) file: &'a (dyn Fn(usize) -> bool + Sync),
    pub(super) part: &'a (dyn Fn(usize, u32) -> bool + Sync),
}

/// Some records of one part, on the way to a worker.
struct Job {
    number: u64,
    batch: Box<Batch>,
    chunk: Arc<Chunk>,
    records: Range<usize>,
    /// Of each record, if rows are compared.
    marks: Vec<Mark>,
    layout: Arc<Layout>,
}

enum Done {
    Batch(Box<Batch>),
    EndOfFile(FileEnd),
}

/// An answer and its place in the order; `None`: its thread panicked.
type Answer = Option<(u64, Result<Done>)>;

/// Runs everything that is wanted through `maker`. `progress(bytes)` is called all the while and says whether to go on.
///
/// # Errors
///
/// The first error in file order, or the sink's.
pub(super) fn run(
    maker: &RowMaker<'_>,
    wanted: &Wanted<'_>,
    mut sink: impl FnMut(Event<'_>) -> Result<()>,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<()> {
    let count = maker.options.thread_count();
    let (free, empty) = channel();
    for _ in 0..count * BATCHES_EACH {
        // The receiver is right here.
        let _ = free.send(Box::default());
    }
    let (jobs, queue) = channel();
    let queue = &Mutex::new(queue);
    let (answer, answers) = channel();
    std::thread::scope(move |scope| {
        threads::start_up_to(scope, count, || {
            let answer = answer.clone();
            move || work(maker, wanted.sources, queue, &answer)
        })?;
        threads::start_in(scope, move || {
            let _bell = Bell(answer.clone());
            let mut feed = Feed { number: 0, empty, jobs, answer };
            // An answer that is not received: the caller has stopped, and reports why.
            let _ = read(maker, wanted, &mut feed);
        })?;
        let all = in_order(&answers, &free, &mut sink, &mut progress);
        // The threads that still wait for either of them end.
        drop((answers, free));
        all
    })
}

/// Hands the answers over in the order of their numbers.
fn in_order(
    answers: &Receiver<Answer>,
    free: &Sender<Box<Batch>>,
    sink: &mut impl FnMut(Event<'_>) -> Result<()>,
    progress: &mut impl FnMut(u64) -> bool,
) -> Result<()> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    let mut bytes = 0;
    loop {
        if !progress(bytes) {
            return Err(Error::Interrupted { kept: None });
        }
        match answers.recv_timeout(TICK) {
            Ok(Some((number, done))) => drop(waiting.insert(number, done)),
            Err(RecvTimeoutError::Timeout) => {}
            // The panic continues where the threads are joined; or everything is done.
            Ok(None) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        while let Some(done) = waiting.remove(&next) {
            next += 1;
            match done? {
                Done::Batch(batch) => {
                    bytes = batch.bytes_read;
                    sink(Event::Batch(&batch))?;
                    // The reader may have ended.
                    let _ = free.send(batch);
                }
                Done::EndOfFile(end) => sink(Event::EndOfFile(end))?,
            }
        }
    }
}

/// A worker: takes jobs until there are none.
fn work(maker: &RowMaker<'_>, sources: &[Source], queue: &Mutex<Receiver<Job>>, answer: &Sender<Answer>) {
    let _bell = Bell(answer.clone());
    let mut workspace = Workspace::default();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { number, mut batch, chunk, records, marks, layout }) = job else { return };
        let path = &sources[batch.part.0 as usize].path;
        let records = (&chunk.records[records], &marks[..]);
        let made = maker.make(path, &layout, &chunk.bytes, records, &mut workspace, &mut batch);
        drop(chunk);
        if answer.send(Some((number, made.map(|()| Done::Batch(batch))))).is_err() {
            return;
        }
    }
}

/// Notifies the receiver of a panic: it would otherwise wait without end for the answer.
struct Bell(Sender<Answer>);

impl Drop for Bell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(None);
        }
    }
}

/// Where the reader's work goes; an error means that there is no receiver any more.
struct Feed {
    number: u64,
    empty: Receiver<Box<Batch>>,
    jobs: Sender<Job>,
    answer: Sender<Answer>,
}

struct Stopped;

impl Feed {
    fn answer(&mut self, done: Result<Done>) -> std::result::Result<(), Stopped> {
        let number = self.number;
        self.number += 1;
        self.answer.send(Some((number, done))).map_err(|_| Stopped)
    }

    fn job(
        &mut self,
        part: (u32, u32),
        bytes_read: u64,
        chunk: &Arc<Chunk>,
        (records, marks): (Range<usize>, &[Mark]),
        layout: &Arc<Layout>,
    ) -> std::result::Result<(), Stopped> {
        let mut batch = self.empty.recv().map_err(|_| Stopped)?;
        batch.clear();
        batch.part = part;
        batch.bytes_read = bytes_read;
        let number = self.number;
        self.number += 1;
        let marks = marks.get(records.clone()).unwrap_or_default().to_vec();
        let (chunk, layout) = (Arc::clone(chunk), Arc::clone(layout));
        self.jobs.send(Job { number, batch, chunk, records, marks, layout }).map_err(|_| Stopped)
    }
}

/// What the reader knows of the files before.
struct Before<'a> {
    bytes: u64,
    /// The dataset of the last file, and how many of its rows are still wanted.
    dataset: Option<&'a str>,
    left: u64,
    duplicates: Option<Duplicates>,
}

/// The reader: every wanted file, from its beginning.
fn read(maker: &RowMaker<'_>, wanted: &Wanted<'_>, feed: &mut Feed) -> std::result::Result<(), Stopped> {
    let options = maker.options;
    let duplicates = (options.deduplicate == Deduplicate::Exact).then(|| Duplicates::new(options.thread_count()));
    let duplicates = match duplicates.transpose() {
        Ok(duplicates) => duplicates,
        Err(error) => return feed.answer(Err(error)),
    };
    let mut before = Before { bytes: 0, dataset: None, left: 0, duplicates };
    for (file, (source, input)) in wanted.sources.iter().zip(&options.data).enumerate() {
        if before.dataset != Some(&source.dataset) {
            before.dataset = Some(&source.dataset);
            before.left = options.max_samples.filter(|_| input.max_samples).unwrap_or(u64::MAX);
        }
        if (wanted.file)(file) {
            match read_file(maker, wanted, file, &mut before, feed)? {
                Ok(end) => {
                    before.left -= end.rows;
                    feed.answer(Ok(Done::EndOfFile(end)))?;
                }
                Err(error) => return feed.answer(Err(error)),
            }
        }
        before.bytes += source.bytes;
    }
    Ok(())
}

fn read_file(
    maker: &RowMaker<'_>,
    wanted: &Wanted<'_>,
    file: usize,
    before: &mut Before<'_>,
    feed: &mut Feed,
) -> std::result::Result<Result<FileEnd>, Stopped> {
    let mut records = match Records::open(maker.options, file, maker.reading()) {
        Ok(records) => records,
        Err(error) => return Ok(Err(error)),
    };
    let unwanted = before.left == 0;
    let format = records.layout.format;
    let mut end = FileEnd { file: file as u32, rows: 0, unwanted, parts: 0, format, digest: None };
    if let Some(duplicates) = &mut before.duplicates {
        duplicates.next_file();
    }
    if unwanted {
        return Ok(Ok(end));
    }
    let mut cut = Cutter { part_bytes: wanted.part_bytes, part: 0, filled: 0 };
    loop {
        let Portion { chunk, marks, is_cut } = match records.next(before.left, before.duplicates.as_mut()) {
            Ok(Some(portion)) => portion,
            Ok(None) => break,
            Err(error) => return Ok(Err(error)),
        };
        end.format = records.layout.format;
        let chunk = Arc::new(chunk);
        let all = chunk.records.len();
        let bytes_read = before.bytes + records.bytes_read();
        let mut first = 0;
        while first < all {
            let (part, count) = cut.batch(chunk.records[first..].iter().map(|r| (r.end - r.start) as u64));
            if (wanted.part)(file, part) {
                let some = (first..first + count, &marks[..]);
                feed.job((file as u32, part), bytes_read, &chunk, some, &records.layout)?;
            }
            first += count;
        }
        end.rows += all as u64;
        end.parts = if end.rows == 0 { 0 } else { cut.part + 1 };
        if is_cut {
            return Ok(Ok(end));
        }
    }
    end.digest = Some(records.digest());
    Ok(Ok(end))
}

/// Cuts records into parts and batches, by their sizes and nothing else. A part is full with the record that makes it
/// at least `part_bytes` long.
struct Cutter {
    part_bytes: u64,
    part: u32,
    filled: u64,
}

impl Cutter {
    /// The next batch: its part, and how many of the records belong to it.
    fn batch(&mut self, sizes: impl Iterator<Item = u64>) -> (u32, usize) {
        if self.filled >= self.part_bytes {
            self.part += 1;
            self.filled = 0;
        }
        let (mut count, mut bytes) = (0, 0);
        for size in sizes {
            count += 1;
            bytes += size;
            if bytes >= BATCH_BYTES || self.filled + bytes >= self.part_bytes {
                break;
            }
        }
        self.filled += bytes;
        (self.part, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_depend_on_the_records_alone() {
        let sizes: Vec<u64> = (0..5000).map(|i| i * 7919 % 40_000).collect();
        let parts = |chunk: usize| {
            let mut cut = Cutter { part_bytes: 1 << 20, part: 0, filled: 0 };
            let mut parts = Vec::new();
            for sizes in sizes.chunks(chunk) {
                let mut rest = sizes;
                while !rest.is_empty() {
                    let (part, count) = cut.batch(rest.iter().copied());
                    parts.extend(std::iter::repeat_n(part, count));
                    rest = &rest[count..];
                }
            }
            parts
        };
        let whole = parts(sizes.len());
        assert!(*whole.last().unwrap() > 50);
        for chunk in [1, 7, 64, 999] {
            assert_eq!(parts(chunk), whole);
        }
    }
}
