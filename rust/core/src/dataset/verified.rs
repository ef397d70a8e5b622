//! What was verified already: a shard that has not changed since is not read again.
//!
//! Remembered in this process for every file, and between processes in a small file of the cache folder, one for each
//! prepared folder. A file counts as unchanged while its inode, size and times are the same; what is remembered on disk
//! is only believed of files that had not changed for a while, see [`FileState`]. A damaged cache file is ignored.

use super::ShardEntry;
use crate::durable::write_cached;
use crate::file_state::{CLOCK_STEP, FileState};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// What is known of a file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    /// The hash that the manifest names; empty if the bytes were not hashed.
    pub(super) blake3: String,
    pub(super) largest_id: u32,
}

impl Facts {
    fn prove(&self, entry: &ShardEntry, hashed: bool) -> bool {
        !hashed || self.blake3 == entry.blake3
    }
}

/// Of this process, by the state of the file.
static KNOWN: LazyLock<Mutex<HashMap<FileState, Facts>>> = LazyLock::new(Mutex::default);

fn known() -> MutexGuard<'static, HashMap<FileState, Facts>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A shard that this process has just written needs no verification.
pub fn remember_written(path: &Path, blake3: String, largest_id: u32) {
    if let Some(state) = FileState::of(path) {
        known().insert(state, Facts { blake3, largest_id });
    }
}

/// The memory of one prepared folder.
#[derive(Debug, Default)]
pub(super) struct Verified {
    place: Option<PathBuf>,
    stored: Stored,
    changed: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    folder: PathBuf,
    files: HashMap<String, (FileState, Facts)>,
}

impl Verified {
    /// Reads the memory of a folder, if there is a cache folder and something in it.
    pub(super) fn load(cache: Option<&Path>, folder: &Path) -> Self {
        let (Some(cache), Ok(folder)) = (cache, std::path::absolute(folder)) else { return Self::default() };
        let name = blake3::hash(folder.as_os_str().as_encoded_bytes()).to_hex();
        let place = cache.join("verified-1").join(format!("{}.json", &name[..32]));
        let read = std::fs::read(&place).ok().and_then(|json| serde_json::from_slice::<Stored>(&json).ok());
        let stored = read.filter(|stored| stored.folder == folder);
        let stored = stored.unwrap_or_else(|| Stored { folder, files: HashMap::new() });
        Self { place: Some(place), stored, changed: false }
    }

    /// What is known of a shard in its present state; `hashed`: only if its bytes were compared with their hash.
    pub(super) fn facts(&self, state: Option<&FileState>, entry: &ShardEntry, hashed: bool) -> Option<Facts> {
        let state = state?;
        let here = known().get(state).filter(|facts| facts.prove(entry, hashed)).cloned();
        here.or_else(|| {
            let (stored, facts) = self.stored.files.get(&entry.file)?;
            (stored == state && facts.prove(entry, hashed)).then(|| facts.clone())
        })
    }

    /// Remembers a shard; `state` is that before it was read.
    pub(super) fn remember(&mut self, path: &Path, state: Option<FileState>, entry: &ShardEntry, facts: Facts) {
        let Some(state) = state.filter(|before| FileState::of(path).as_ref() == Some(before)) else { return };
        if state.is_older_than(CLOCK_STEP) {
            known().insert(state.clone(), facts.clone());
        }
        if state.is_settled() {
            self.stored.files.insert(entry.file.clone(), (state, facts));
            self.changed = true;
        }
    }

    /// Stores what was learned. That it cannot be stored is no error: it is learned again.
    pub(super) fn store(&self) {
        let Some(place) = self.place.as_ref().filter(|_| self.changed) else { return };
        if let Ok(json) = serde_json::to_vec(&self.stored) {
            let _ = write_cached(place, |file| file.write_all(&json));
        }
    }
}
