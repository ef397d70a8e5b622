//! A prepared folder that is there: its manifest, and what stands in the way of using it.

use super::progress::Tick;
use super::rejected;
use super::report::Manifest;
use crate::dataset::{self, Checksums, FORMAT_VERSION, Opened, Verify};
use crate::error::{Error, Result};
use serde::Deserialize;
use std::io::ErrorKind;
use std::path::Path;

/// The name of the file.
const MANIFEST: &str = "manifest.json";

/// What tells a prepared dataset from other folders.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

/// The manifest of a prepared folder, compared with its hash.
///
/// # Errors
///
/// [`Error::Artifact`] if the folder is no prepared dataset of this version, or its manifest is damaged.
pub fn manifest(folder: &Path) -> Result<Manifest> {
    let path = folder.join(MANIFEST);
    let refuse = |path: &Path, problem: String, hint| Error::Artifact { path: path.to_path_buf(), problem, hint };
    let json = match std::fs::read(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            let problem = format!("is not a prepared dataset: it has no {MANIFEST}");
            return Err(refuse(folder, problem, "make one with `qlora-fast prep DATA --out DIR`"));
        }
        read => read.map_err(Error::io("read", &path))?,
    };
    let damaged = |problem: String| {
        let hint = "if the folder is prepared data, delete it and run `qlora-fast prep` again";
        refuse(&path, format!("is damaged: {problem}"), hint)
    };
    if let Some(problem) = Checksums::problem(folder, MANIFEST)? {
        return Err(damaged(problem));
    }
    let Version { format_version } = serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
    if format_version != FORMAT_VERSION {
        let problem = format!("has format version {format_version}, this qlora-fast reads {FORMAT_VERSION}");
        return Err(refuse(folder, problem, "prepare the data again with this version"));
    }
    let manifest: Manifest = serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
    // A row can have several samples, none fewer than one.
    let (samples, tokens) =
        manifest.shards.iter().fold((0, 0), |(rows, tokens), shard| (rows + shard.rows, tokens + shard.tokens));
    if samples < manifest.rows_kept || tokens != manifest.tokens {
        return Err(damaged("its shards do not add up to its rows and tokens".to_owned()));
    }
    Ok(manifest)
}

/// Opens a prepared folder: its manifest and its shards, verified as asked for.
///
/// # Errors
///
/// [`Error::Artifact`] naming the file that is damaged, [`Error::Io`], [`Error::Interrupted`].
pub fn open(folder: &Path, verify: Verify, cache: Option<&Path>, tick: &mut Tick<'_>) -> Result<(Manifest, Opened)> {
    let manifest = manifest(folder)?;
    let opened = dataset::open(folder, &manifest.shards, manifest.sources.len(), verify, cache, tick)?;
    let opened = opened.whole(folder, &manifest.shards)?;
    Ok((manifest, opened))
}

/// What is wrong with a prepared folder: each file that is not as it was written, and how it differs, in words.
///
/// # Errors
///
/// [`Error::Artifact`] if even the manifest cannot be used, [`Error::Io`], [`Error::Interrupted`].
pub fn problems(folder: &Path, tick: &mut Tick<'_>) -> Result<(Manifest, Vec<(String, String)>)> {
    let manifest = manifest(folder)?;
    let opened = dataset::open(folder, &manifest.shards, manifest.sources.len(), Verify::Full, None, tick)?;
    let damaged = opened.damaged.into_iter().map(|damage| (manifest.shards[damage.shard].file.clone(), damage.problem));
    let mut problems: Vec<_> = damaged.collect();
    let rejected = Checksums::problem(folder, rejected::FILE)?;
    problems.extend(rejected.map(|problem| (rejected::FILE.to_owned(), problem)));
    Ok((manifest, problems))
}

/// The manifest of a folder that holds exactly this; an error if the place is taken by something else.
pub(super) fn existing(out: &Path, fingerprint: &str) -> Result<Option<Manifest>> {
    let taken = |problem: &str| Error::Artifact {
        path: out.to_path_buf(),
        problem: problem.to_owned(),
        hint: "give another folder with --out, or move this one away; nothing was touched",
    };
    let there = || out.join(MANIFEST).exists();
    if !there() {
        if !out.exists() || std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none()) {
            return Ok(None);
        }
        // Another process may have moved its folder there between the two questions.
        if !there() {
            return Err(taken("is not empty, and not a prepared dataset"));
        }
    }
    let manifest = manifest(out)?;
    if manifest.fingerprint == fingerprint { Ok(Some(manifest)) } else { Err(taken("holds other prepared data")) }
}

/// Whether all shards are there, as far as their sizes tell.
pub(super) fn is_whole(folder: &Path, manifest: &Manifest) -> bool {
    manifest.shards.iter().all(|s| folder.join(&s.file).metadata().is_ok_and(|m| m.len() == s.bytes))
}
