//! Hashes of files, remembered: a large input that has not changed since is not read again to know what it is.
//!
//! A hash is taken for the file's if size, times and inode are those of the hashed file. A file that was changed less
//! than two seconds before is hashed again each time: another change could leave all of them as they are.

use crate::durable::write_cached;
use crate::error::{Error, Result};
use crate::file_state::FileState;
use crate::regular_file;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const BLOCK: usize = 256 << 10;

/// Size and hash of a file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) bytes: u64,
    pub(super) blake3: String,
}

/// The folder of remembered hashes; none: every file is read.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    folder: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    path: PathBuf,
    state: FileState,
    content: Content,
}

impl Memory {
    pub(super) fn new(cache: Option<&Path>) -> Self {
        Self { folder: cache.map(|cache| cache.join("hashes-2")) }
    }

    /// The content of a file, remembered or read.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] on the file. That a hash cannot be remembered is no error.
    pub(super) fn content(&self, path: &Path) -> Result<Content> {
        let Some(folder) = &self.folder else { return hash(path) };
        let Ok(whole) = std::path::absolute(path) else { return hash(path) };
        let name = blake3::hash(whole.as_os_str().as_encoded_bytes()).to_hex();
        let place = folder.join(format!("{}.json", &name[..32]));
        let Some(before) = state(path) else { return hash(path) };
        let known = std::fs::read(&place).ok().and_then(|json| serde_json::from_slice::<Entry>(&json).ok());
        if let Some(entry) = known.filter(|e| e.path == whole && e.state == before) {
            return Ok(entry.content);
        }
        let content = hash(path)?;
        if state(path).is_some_and(|after| after == before) {
            let entry = Entry { path: whole, state: before, content: content.clone() };
            if let Ok(json) = serde_json::to_vec(&entry) {
                let _ = write_cached(&place, |file| file.write_all(&json));
            }
        }
        Ok(content)
    }
}

/// The state of a file whose hash can be remembered: an unsettled one could change once more without a trace.
fn state(path: &Path) -> Option<FileState> {
    FileState::of(path).filter(FileState::is_settled)
}

fn hash(path: &Path) -> Result<Content> {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0;
    let mut file = regular_file::open(path, path)?;
    let mut read = || {
        let mut block = vec![0; BLOCK];
        loop {
            match file.read(&mut block)? {
                0 => return Ok(()),
                n => {
                    hasher.update(&block[..n]);
                    bytes += n as u64;
                }
            }
        }
    };
    read().map_err(Error::io("read", path))?;
    Ok(Content { bytes, blake3: hasher.finalize().to_hex().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_state::SETTLED;
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    fn age(path: &Path, seconds: u64) {
        let time = SystemTime::now() - Duration::from_secs(seconds);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn a_remembered_hash_is_that_of_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let (path, cache) = (dir.path().join("x"), dir.path().join("cache"));
        let memory = Memory::new(Some(&cache));
        std::fs::write(&path, "one").unwrap();
        // Too young to be remembered, whatever the file says of its content's age.
        age(&path, 100);
        assert_eq!(memory.content(&path).unwrap(), hash(&path).unwrap());
        assert!(!cache.exists());

        std::thread::sleep(SETTLED + Duration::from_millis(100));
        assert_eq!(memory.content(&path).unwrap(), hash(&path).unwrap());
        let entry = std::fs::read_dir(cache.join("hashes-2")).unwrap().next().unwrap().unwrap().path();
        let remembered = std::fs::read_to_string(&entry).unwrap();
        let forged = remembered.replace(&hash(&path).unwrap().blake3, "forged");
        std::fs::write(&entry, forged).unwrap();
        assert_eq!(memory.content(&path).unwrap().blake3, "forged");

        // Same size, and the old time of the content set again: still another file.
        let time = path.metadata().unwrap().modified().unwrap();
        std::fs::write(&path, "two").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        assert_eq!(memory.content(&path).unwrap(), hash(&path).unwrap());
        std::fs::write(&entry, "damaged").unwrap();
        assert_eq!(memory.content(&path).unwrap(), hash(&path).unwrap());
    }
}
