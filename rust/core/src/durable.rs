//! Where a folder is made: beside its place, by one process at a time, and in its place only when it is whole.
//!
//! A working folder is named by its target and a fingerprint of what it is to hold, so a process that comes after a
//! killed one finds what was done. A file in it is written under a name that ends in `.tmp`, flushed to disk and
//! renamed: whole or not there. Locks are the operating system's, so they end with their process, however it ends.

use crate::error::{Error, Result};
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Who may work in a folder beside the one who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nobody.
    Alone,
    /// Others who claim a share too.
    Share,
}

/// A folder in the making.
#[derive(Debug)]
pub struct WorkingFolder {
    target: PathBuf,
    path: PathBuf,
    claim: Claim,
    lock: File,
}

impl WorkingFolder {
    /// Where the working folder of a target lies.
    #[must_use]
    pub fn place(target: &Path, fingerprint: &str) -> PathBuf {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        target.with_file_name(format!(".{name}.{}.partial", &fingerprint[..fingerprint.len().min(10)]))
    }

    /// Begins the folder, or takes one over that was left; `None` while another process works in it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn claim(target: &Path, fingerprint: &str, claim: Claim) -> Result<Option<Self>> {
        let path = Self::place(target, fingerprint);
        fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        let Some(lock) = lock(&path.join("lock"), claim)? else {
            return Ok(None);
        };
        let folder = Self { target: target.to_path_buf(), path, claim, lock };
        if claim == Claim::Alone {
            let pid = std::process::id().to_string();
            // Only for the eyes of a person: the lock itself is not in the text.
            let _ = folder.lock.set_len(0).and_then(|()| (&folder.lock).write_all(pid.as_bytes()));
            folder.remove_unfinished()?;
        }
        Ok(Some(folder))
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes files that are not whole: all of them, or those of this process where others work too.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn remove_unfinished(&self) -> Result<()> {
        let ending = match self.claim {
            Claim::Alone => ".tmp".to_owned(),
            Claim::Share => format!(".{}.tmp", std::process::id()),
        };
        remove_ending(&self.path, &ending)
    }

    /// Writes one file from its parts, flushed to disk.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], a full disk among others.
    pub fn write(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        let path = self.path.join(name);
        write_whole(&path, true, |file| parts.iter().try_for_each(|part| file.write_all(part)))
    }

    /// Puts the folder in its place; working folders that were left there for other contents go.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn commit(self) -> Result<()> {
        // Still held: who waits for it sees that the file is gone and looks again.
        fs::remove_file(self.path.join("lock")).map_err(Error::io("remove", &self.path))?;
        sync_folder(&self.path)?;
        match fs::rename(&self.path, &self.target) {
            Ok(()) => {}
            Err(_) if self.target.join("manifest.json").is_file() => return self.remove(),
            Err(error) => return Err(Error::io("write", &self.target)(error)),
        }
        sync_folder(parent_of(&self.target))?;
        self.remove_others();
        Ok(())
    }

    /// Removes the folder and all that is in it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.path).map_err(Error::io("remove", &self.path))
    }

    /// Working folders of the same target that nobody works in. What cannot be removed does no harm.
    fn remove_others(&self) {
        let prefix = format!(".{}.", self.target.file_name().unwrap_or_default().to_string_lossy());
        for entry in fs::read_dir(parent_of(&self.target)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let middle = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".partial"));
            if middle.is_some_and(|m| m.len() == 10 && m.bytes().all(|b| b.is_ascii_hexdigit()))
                && lock(&entry.path().join("lock"), Claim::Alone).is_ok_and(|lock| lock.is_some())
            {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn remove_ending(folder: &Path, ending: &str) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove_ending(&path, ending)?;
        } else if entry.file_name().to_string_lossy().ends_with(ending) {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Locks a file, making it first; `None` while another process holds it.
///
/// # Errors
///
/// [`Error::Io`].
pub fn lock(path: &Path, claim: Claim) -> Result<Option<File>> {
    let open = File::options().create(true).truncate(false).write(true).read(true).open(path);
    let file = match open {
        Ok(file) => file,
        // Its folder was put in its place, or removed, a moment ago.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("write", path)(error)),
    };
    let locked = match claim {
        Claim::Alone => file.try_lock(),
        Claim::Share => file.try_lock_shared(),
    };
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        // A file system without locks: better without one than not at all.
        Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
    }
    Ok(is_still(&file, path).then_some(file))
}

/// Whether the path still leads to this file: the process that held the lock before may have removed it.
fn is_still(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |m: fs::Metadata| (m.dev(), m.ino());
        file.metadata().ok().map(id) == fs::metadata(path).ok().map(id)
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

/// Writes a file under another name beside its own, and renames it; `flush`: to disk before.
///
/// # Errors
///
/// [`Error::Io`].
pub fn write_whole(path: &Path, flush: bool, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    let temporary = unfinished(path);
    let all = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        write(&mut file)?;
        if flush {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    };
    all().map_err(Error::io("write", path))
}

/// The name of a file while it is written. Shares of one job may write the same file, so it is the process's own.
#[must_use]
pub fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.{}.tmp", std::process::id()))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A renamed or created name is on disk only when its folder is.
fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(path).and_then(|f| f.sync_all()).map_err(Error::io("flush", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbb";

    fn claimed(target: &Path, fingerprint: &str, claim: Claim) -> Option<WorkingFolder> {
        WorkingFolder::claim(target, fingerprint, claim).unwrap()
    }

    #[test]
    fn a_folder_is_whole_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/b");
        let folder = claimed(&target, A, Claim::Alone).unwrap();
        folder.write("x", &[b"1", b"2"]).unwrap();
        fs::write(folder.path().join("y.tmp"), "half").unwrap();
        drop(folder);
        assert!(!target.exists());

        let folder = claimed(&target, A, Claim::Alone).unwrap();
        assert_eq!(fs::read(folder.path().join("x")).unwrap(), b"12");
        assert!(!folder.path().join("y.tmp").exists());
        folder.commit().unwrap();
        assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn one_alone_or_several_with_a_share_each() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("t");
        let first = claimed(&target, A, Claim::Share).unwrap();
        let second = claimed(&target, A, Claim::Share).unwrap();
        assert!(claimed(&target, A, Claim::Alone).is_none());
        drop((first, second));
        let alone = claimed(&target, A, Claim::Alone).unwrap();
        assert!(claimed(&target, A, Claim::Share).is_none());
        alone.remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_was_left_for_other_contents_goes_unless_it_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("t");
        drop(claimed(&target, B, Claim::Alone));
        let busy = claimed(&target, "cccccccccccc", Claim::Share).unwrap();
        let folder = claimed(&target, A, Claim::Alone).unwrap();
        folder.write("manifest.json", &[b"{}"]).unwrap();
        folder.commit().unwrap();
        assert!(!WorkingFolder::place(&target, B).exists());
        assert!(busy.path().exists());
        // Who comes second to the same place leaves it as it is.
        claimed(&target, B, Claim::Alone).unwrap().commit().unwrap();
        assert_eq!(fs::read(target.join("manifest.json")).unwrap(), b"{}");
    }
}
