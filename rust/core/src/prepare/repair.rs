//! Damaged shards of a prepared folder, made again from their source: the fingerprint says that it has not changed.

use super::build::{self, Selection};
use super::options::{Identity, Options};
use super::parts::{Parts, part_of};
use super::progress::{Seconds, Tick, WAIT};
use super::report::Manifest;
use crate::dataset::{self, Damage};
use crate::durable::{Claim, WorkingFolder};
use crate::error::{Error, Result};
use std::time::Instant;

/// Verifies the folder of the options and makes damaged shards again; returns their names.
///
/// # Errors
///
/// [`Error::Artifact`] for a shard that cannot be made again, and any [`Error`] of a preparation.
pub(super) fn make_whole(
    options: &Options,
    identity: &Identity,
    manifest: &Manifest,
    may_build: bool,
    seconds: &mut Seconds,
    tick: &mut Tick<'_>,
) -> Result<Vec<String>> {
    let verifying = Instant::now();
    let damaged = damaged(options, manifest, tick)?;
    seconds.insert("verify", verifying.elapsed().as_secs_f64());
    let Some(first) = damaged.first() else { return Ok(Vec::new()) };
    if !may_build {
        return Err(refuse(options, manifest, first, ""));
    }
    let repaired = repair(options, identity, manifest, seconds, tick);
    repaired.map_err(|error| match error {
        // Such as a folder that may only be read.
        Error::Io { .. } => refuse(options, manifest, first, &format!("; and could not be made again: {error}")),
        error => error,
    })
}

fn damaged(options: &Options, manifest: &Manifest, tick: &mut Tick<'_>) -> Result<Vec<Damage>> {
    let (files, cache) = (manifest.sources.len(), options.cache.as_deref());
    Ok(dataset::open(&options.out, &manifest.shards, files, options.verify, cache, tick)?.damaged)
}

fn refuse(options: &Options, manifest: &Manifest, damage: &Damage, more: &str) -> Error {
    Error::Artifact {
        path: options.out.join(&manifest.shards[damage.shard].file),
        problem: format!("is damaged: {}{more}", damage.problem),
        hint: "delete the folder and run `qlora-fast prep` again",
    }
}

/// Makes the damaged shards in a working folder, so that only one process does, and moves them to their places.
fn repair(
    options: &Options,
    identity: &Identity,
    manifest: &Manifest,
    seconds: &mut Seconds,
    tick: &mut Tick<'_>,
) -> Result<Vec<String>> {
    let folder = loop {
        if let Some(folder) = WorkingFolder::claim(&options.out, &identity.fingerprint, Claim::Alone)? {
            break folder;
        }
        if !tick("waiting for another process", 0, 0) {
            return Err(Error::Interrupted { kept: None });
        }
        std::thread::sleep(WAIT);
    };
    // The process that was waited for may have made them again.
    let made = damaged(options, manifest, tick).and_then(|damaged| {
        rebuild(options, identity, manifest, &damaged, &folder, seconds, tick)?;
        Ok(damaged.into_iter().map(|damage| manifest.shards[damage.shard].file.clone()).collect())
    });
    folder.remove().and(made)
}

fn rebuild(
    options: &Options,
    identity: &Identity,
    manifest: &Manifest,
    damaged: &[Damage],
    folder: &WorkingFolder,
    seconds: &mut Seconds,
    tick: &mut Tick<'_>,
) -> Result<()> {
    if damaged.is_empty() {
        return Ok(());
    }
    let mut numbers = Vec::with_capacity(damaged.len());
    for damage in damaged {
        let number = part_of(&manifest.shards[damage.shard].file);
        numbers.push(number.ok_or_else(|| refuse(options, manifest, damage, ""))?);
    }
    // Creates the folder of the reports.
    Parts::find(folder, identity.sources.len())?;
    let file = |file: usize| numbers.iter().any(|&(of, _)| of as usize == file);
    let part = |file: usize, part: u32| numbers.iter().any(|&(of, number)| of as usize == file && number == part);
    build::build(options, &identity.sources, folder, &Selection { file: &file, part: &part }, seconds, tick)?;
    for (damage, number) in damaged.iter().zip(numbers) {
        let entry = &manifest.shards[damage.shard];
        if Parts::shard_of(folder, number).as_ref() != Some(entry) {
            return Err(refuse(options, manifest, damage, "; and what is made from its source today differs from it"));
        }
        let target = options.out.join(&entry.file);
        std::fs::rename(folder.path().join(&entry.file), &target).map_err(Error::io("write", &target))?;
    }
    crate::durable::sync_folder(&options.out)
}
