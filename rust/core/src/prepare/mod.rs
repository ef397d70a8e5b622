//! The pipeline: read → parse → render → encode → truncate → write, on all cores, in one pass, in bounded memory.
//!
//! Work is cut into parts (`parts`), each a shard of its own with a report beside it, in a working folder that outlives
//! a killed process. [`prepare`] makes the parts that are missing and joins all of them; [`prepare_share`] makes some and
//! leaves the joining to [`merge`], so that any number of machines can divide the work. The bytes are the same whichever process
//! made which part.

mod build;
mod duplicates;
mod file_hashes;
mod input;
mod inspect;
mod names;
mod options;
mod parts;
mod pipeline;
mod progress;
mod records;
mod rejected;
mod repair;
mod report;
mod rows;
mod stored;
mod unknown_format;

pub use duplicates::{Duplicates, First, Mark};
pub use input::Input;
pub use inspect::{InspectedRow, Refusal, Written, inspect};
pub use options::{DATA_PATH_VERSION, Deduplicate, Identity, Options, Source};
pub use progress::Tick;
pub use rejected::{DroppedRow, FirstRow};
pub use report::{EngineReport, Manifest, Report, ShareReport, Tally, TruncatedRow};
pub use rows::{Batch, Counts, RowMaker, Workspace};
pub use stored::{manifest, open, problems};

use crate::dataset::{Checksums, FORMAT_VERSION};
use crate::durable::{Claim, WorkingFolder};
use crate::error::{Error, Rejection, Result};
use build::Share;
use names::KEYS_SHOWN;
use parts::Parts;
use progress::{Seconds, WAIT};
use std::time::Instant;
use stored::{existing, is_damaged, is_whole};

/// Prepares the data, or finds it prepared, or resumes where a process was killed.
///
/// # Errors
///
/// Any [`Error`]. Nothing is left behind then; but after [`Error::Interrupted`], and after the operating system refused
/// something, the parts that are done stay for the next time.
pub fn prepare(options: &Options, tick: &mut Tick<'_>) -> Result<Report> {
    whole(options, true, tick)
}

/// Joins the parts that shares have made: no data is read and nothing encoded.
///
/// # Errors
///
/// Any [`Error`], [`Error::Artifact`] if parts are missing among them.
pub fn merge(options: &Options, tick: &mut Tick<'_>) -> Result<Report> {
    whole(options, false, tick)
}

fn whole(options: &Options, may_make: bool, tick: &mut Tick<'_>) -> Result<Report> {
    let started = Instant::now();
    let mut seconds = Seconds::new();
    let identity = identify(options, &mut seconds)?;
    let (mut remade, mut set_aside) = (Vec::new(), None);
    let folder = match claim(options, &identity.fingerprint, Claim::Alone, tick)? {
        Claimed::Damaged(folder) if may_make => {
            set_aside = Some(stored::set_aside(&options.out)?);
            remade.push(stored::MANIFEST.to_owned());
            folder
        }
        Claimed::Damaged(folder) => return folder.remove().and_then(|()| Err(refusal(options))),
        Claimed::Prepared(manifest) => {
            let remade = repair::make_whole(options, &identity, &manifest, may_make, &mut seconds, tick)?;
            seconds.insert("total", started.elapsed().as_secs_f64());
            let (path, engine) = (options.out.clone(), EngineReport::not_needed("prepared before"));
            return Ok(Report { path, manifest: *manifest, reused: true, remade, set_aside, engine, seconds });
        }
        Claimed::Folder(folder) => folder,
    };
    let made = make_and_join(options, identity, &folder, may_make, &mut seconds, tick);
    let (manifest, engine) = match made {
        Ok(made) => made,
        Err(error) => return Err(leave(folder, error, may_make)),
    };
    Parts::remove_reports(&folder)?;
    folder.commit()?;
    seconds.insert("total", started.elapsed().as_secs_f64());
    let path = options.out.clone();
    Ok(Report { path, manifest, reused: false, remade, set_aside, engine, seconds })
}

fn make_and_join(
    options: &Options,
    identity: Identity,
    folder: &WorkingFolder,
    may_make: bool,
    seconds: &mut Seconds,
    tick: &mut Tick<'_>,
) -> Result<(Manifest, EngineReport)> {
    let Identity { mut sources, fingerprint } = identity;
    if let Some(manifest) = manifest(folder.path()).ok().filter(|m| is_whole(folder.path(), m)) {
        // A process was killed between the last file and the rename.
        return Ok((manifest, EngineReport::not_needed("all was there")));
    }
    let mut parts = Parts::find(folder, sources.len())?;
    let mut engine = EngineReport::not_needed("parts were joined");
    if may_make {
        engine = build::build_missing(options, &sources, folder, &parts, Share::WHOLE, seconds, tick)?;
        parts = Parts::find(folder, sources.len())?;
    }
    if let Some(missing) = parts.missing(&sources) {
        return Err(Error::Artifact {
            path: folder.path().to_path_buf(),
            problem: format!("is not complete: {missing}"),
            hint: "run every share to its end, or `prep` without --merge, which makes what is missing",
        });
    }
    let joining = Instant::now();
    let (tally, shards, format) = parts.join(&mut sources)?;
    let mut manifest = tally.finish();
    if manifest.rows_kept == 0 {
        return Err(nothing_survives(&manifest));
    }
    manifest.format_version = FORMAT_VERSION;
    manifest.fingerprint = fingerprint;
    manifest.format = format;
    manifest.template = options.chat_template()?.name().to_owned();
    manifest.cutoff_len = options.cutoff_len;
    manifest.sources = sources;
    manifest.shards = shards;
    let json = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::Option { problem: e.to_string() })?;
    let mut checksums = Checksums::of(folder.path(), &[rejected::FILE])?;
    checksums.add("manifest.json", &json);
    folder.write(Checksums::FILE, &[&checksums.to_json()])?;
    folder.write("manifest.json", &[&json])?;
    seconds.insert("join", joining.elapsed().as_secs_f64());
    Ok((manifest, engine))
}

/// Makes the parts of one of `count` shares, the first of which is number 1. Shares can run at the same time, on any
/// machines that see the same folder.
///
/// # Errors
///
/// Any [`Error`]; the parts that are done stay.
pub fn prepare_share(options: &Options, number: u32, count: u32, tick: &mut Tick<'_>) -> Result<ShareReport> {
    if !(1..=count).contains(&number) {
        return Err(Error::Option { problem: format!("share {number} of {count} does not exist") });
    }
    let started = Instant::now();
    let mut seconds = Seconds::new();
    let Identity { sources, fingerprint } = identify(options, &mut seconds)?;
    let mut report = ShareReport { path: options.out.clone(), share: (number, count), ..ShareReport::default() };
    let claimed = claim(options, &fingerprint, Claim::Share, tick)?;
    if let Claimed::Damaged(folder) = claimed {
        return folder.remove().and_then(|()| Err(refusal(options)));
    }
    if let Claimed::Folder(folder) = claimed {
        report.path = folder.path().to_path_buf();
        let share = Share { index: number - 1, count };
        let parts = Parts::find(&folder, sources.len())?;
        let made = build::build_missing(options, &sources, &folder, &parts, share, &mut seconds, tick);
        report.engine = made.map_err(|error| kept(&folder, error))?;
        report.parts = Parts::find(&folder, sources.len())?.done();
    }
    seconds.insert("total", started.elapsed().as_secs_f64());
    report.seconds = seconds;
    Ok(report)
}

fn identify(options: &Options, seconds: &mut Seconds) -> Result<Identity> {
    let started = Instant::now();
    if options.data.is_empty() {
        return Err(Error::Option { problem: "there is no data to prepare".to_owned() });
    }
    let identity = options.identify()?;
    seconds.insert("fingerprint", started.elapsed().as_secs_f64());
    Ok(identity)
}

enum Claimed {
    Prepared(Box<Manifest>),
    Folder(WorkingFolder),
    /// The place is taken by prepared data whose manifest is damaged.
    Damaged(WorkingFolder),
}

/// The prepared data, or the folder to make it in; waits while another process makes the same.
fn claim(options: &Options, fingerprint: &str, claim: Claim, tick: &mut Tick<'_>) -> Result<Claimed> {
    loop {
        match existing(&options.out, fingerprint) {
            Ok(Some(manifest)) => {
                WorkingFolder::remove_stale(&options.out, fingerprint);
                return Ok(Claimed::Prepared(Box::new(manifest)));
            }
            Err(error) if !is_damaged(&options.out) => return Err(error),
            Ok(None) | Err(_) => {}
        }
        if let Some(folder) = WorkingFolder::claim(&options.out, fingerprint, claim)? {
            // Another process may have finished between the two questions.
            return match existing(&options.out, fingerprint) {
                Ok(None) => Ok(Claimed::Folder(folder)),
                Ok(Some(manifest)) => folder.remove().map(|()| Claimed::Prepared(Box::new(manifest))),
                Err(_) if is_damaged(&options.out) => Ok(Claimed::Damaged(folder)),
                Err(error) => folder.remove().and(Err(error)),
            };
        }
        if !tick("waiting for another process", 0, 0) {
            return Err(Error::Interrupted { kept: None });
        }
        std::thread::sleep(WAIT);
    }
}

/// The error of a place that is taken by a damaged folder.
fn refusal(options: &Options) -> Error {
    Error::Artifact {
        path: options.out.clone(),
        problem: "is prepared data whose manifest is missing or damaged".to_owned(),
        hint: "run the same `qlora-fast prep` in one process, which makes it again from the data",
    }
}

/// What becomes of the working folder after an error: parts are kept if another try can use them.
fn leave(folder: WorkingFolder, error: Error, made: bool) -> Error {
    let error = kept(&folder, error);
    let again = match error {
        Error::Interrupted { ref kept } => kept.is_some(),
        Error::Io { .. } => true,
        // Joining takes nothing away from the shares.
        _ => !made,
    };
    if !again {
        // The error at hand is the one to tell.
        let _ = folder.remove();
    }
    error
}

/// Says where the parts are, if some are done; what is not whole goes.
fn kept(folder: &WorkingFolder, error: Error) -> Error {
    // The next process would remove it as well.
    let _ = folder.remove_unfinished();
    match error {
        Error::Interrupted { .. } => {
            Error::Interrupted { kept: Parts::any(folder).then(|| folder.path().to_path_buf()) }
        }
        other => other,
    }
}

fn nothing_survives(manifest: &Manifest) -> Error {
    let reasons: Vec<_> = manifest.rows_dropped.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    let first = manifest.dropped_examples.first().map(|example| {
        let DroppedRow { file, line, row, reason, .. } = example.clone();
        Box::new(Rejection { path: file, line, row, reason })
    });
    let ignored = manifest.ignored_keys.keys().take(KEYS_SHOWN).map(|key| format!("`{key}`")).collect();
    Error::NothingSurvives { rows: manifest.rows_read, reasons: reasons.join(", "), first, ignored }
}
