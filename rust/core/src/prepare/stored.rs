//! A prepared folder that is there: its manifest, and what stands in the way of using it.

use super::parts::part_of;
use super::progress::Tick;
use super::rejected;
use super::report::Manifest;
use crate::dataset::{self, Checksums, FORMAT_VERSION, Opened, Verify};
use crate::error::{Error, Result};
use crate::regular_file;
use serde::Deserialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The name of the file.
pub(super) const MANIFEST: &str = "manifest.json";
/// A folder in it that people ask for; no part of the format.
const REPORT: &str = "report";

/// What tells a prepared dataset from other folders.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

/// Why there is no manifest to work with.
enum Unusable {
    Missing,
    Damaged(String),
    OtherVersion(u32),
    Io(Error),
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Self {
        match error {
            Error::Io { source, .. } if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Self::Missing
            }
            Error::File { problem, .. } => Self::Damaged(format!("it {problem}")),
            error => Self::Io(error),
        }
    }
}

impl From<serde_json::Error> for Unusable {
    fn from(error: serde_json::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// The manifest of a prepared folder, compared with its hash.
///
/// # Errors
///
/// [`Error::Artifact`] if the folder is no prepared dataset of this version, or its manifest is damaged.
pub fn manifest(folder: &Path) -> Result<Manifest> {
    let path = folder.join(MANIFEST);
    let refuse = |path: &Path, problem: String, hint| Error::Artifact { path: path.to_path_buf(), problem, hint };
    read(folder).map_err(|unusable| match unusable {
        Unusable::Missing => {
            let problem = format!("is not a prepared dataset: it has no {MANIFEST}");
            refuse(folder, problem, "make one with `qlora-fast prep DATA --out DIR`")
        }
        Unusable::Damaged(problem) => {
            let hint = "run the same `qlora-fast prep` or `train` again: it makes the folder again from the data";
            refuse(&path, format!("is damaged: {problem}"), hint)
        }
        Unusable::OtherVersion(version) => {
            let problem = format!("has format version {version}, this qlora-fast reads {FORMAT_VERSION}");
            refuse(folder, problem, "prepare the data again with this version")
        }
        Unusable::Io(error) => error,
    })
}

fn read(folder: &Path) -> std::result::Result<Manifest, Unusable> {
    let json = regular_file::read(&folder.join(MANIFEST))?;
    if let Some(problem) = Checksums::problem(folder, MANIFEST)? {
        return Err(Unusable::Damaged(problem));
    }
    let Version { format_version } = serde_json::from_slice(&json)?;
    if format_version != FORMAT_VERSION {
        return Err(Unusable::OtherVersion(format_version));
    }
    let manifest: Manifest = serde_json::from_slice(&json)?;
    // A row can have several samples, none fewer than one.
    let (samples, tokens) =
        manifest.shards.iter().fold((0, 0), |(rows, tokens), shard| (rows + shard.rows, tokens + shard.tokens));
    if samples < manifest.rows_kept || tokens != manifest.tokens {
        return Err(Unusable::Damaged("its shards do not add up to its rows and tokens".to_owned()));
    }
    Ok(manifest)
}

/// Whether a folder is prepared data whose manifest is missing or damaged, and holds nothing else.
pub(super) fn is_damaged(folder: &Path) -> bool {
    if !matches!(read(folder), Err(Unusable::Missing | Unusable::Damaged(_))) {
        return false;
    }
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let (mut own, mut shards) = (true, 0);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { return false };
        let shard = part_of(name).is_some();
        shards += usize::from(shard);
        own &= shard || [MANIFEST, Checksums::FILE, rejected::FILE, REPORT].contains(&name);
    }
    own && shards > 0 && (folder.join(MANIFEST).exists() || folder.join(Checksums::FILE).exists())
}

/// Moves a damaged folder to `NAME.damaged`, or to the next such name that is free, and returns it: nothing is deleted.
pub(super) fn set_aside(folder: &Path) -> Result<PathBuf> {
    let mut name = folder.as_os_str().to_owned();
    name.push(".damaged");
    let mut place = PathBuf::from(&name);
    for number in 2.. {
        if place.symlink_metadata().is_err() {
            break;
        }
        let mut next = name.clone();
        next.push(format!(".{number}"));
        place = PathBuf::from(next);
    }
    std::fs::rename(folder, &place).map_err(Error::io("rename", folder))?;
    Ok(place)
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
