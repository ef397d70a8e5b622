//! Where a folder is made: beside its target, by one process at a time, and moved to its target only when it is complete.
//!
//! A working folder is named by its target and a fingerprint of its contents, so a process that starts after a killed
//! one finds what was done. A file in it is written under a name that ends in `.tmp`, flushed to disk and renamed: it is
//! complete or not there. Locks are the operating system's, so they end with their process, however it ends.
//!
//! The lock is a file beside the working folder, not in it: the folder is created, renamed and removed only by a
//! process that holds the lock. In the folder, the lock would have to go before the folder is renamed, and a process
//! that waits could then make another one there.

use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Far longer than it takes from creating a file to locking it. (A process that is stopped in between does without the file.)
const LOCKED_WITHIN: Duration = Duration::from_millis(50);

/// Whether other processes may work in a folder at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// No other.
    Alone,
    /// Others that claim a share too.
    Share,
}

/// A folder that is being made.
#[derive(Debug)]
pub struct WorkingFolder {
    target: PathBuf,
    path: PathBuf,
    lock: Lock,
}

impl WorkingFolder {
    /// Where the working folder of a target lies.
    #[must_use]
    pub fn place(target: &Path, fingerprint: &str) -> PathBuf {
        beside(target, fingerprint, "partial")
    }

    /// Creates the folder, or continues one that was left; `None` while another process works in it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn claim(target: &Path, fingerprint: &str, claim: Claim) -> Result<Option<Self>> {
        let parent = parent_of(target);
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        let Some(lock) = Lock::acquire(&beside(target, fingerprint, "lock"), claim)? else {
            return Ok(None);
        };
        let path = Self::place(target, fingerprint);
        fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        let folder = Self { target: target.to_path_buf(), path, lock };
        if claim == Claim::Alone {
            folder.remove_unfinished()?;
        }
        Ok(Some(folder))
    }

    /// Removes the lock and the working folder of a target that is complete, which a killed process left.
    pub fn remove_stale(target: &Path, fingerprint: &str) {
        let (folder, lock) = (Self::place(target, fingerprint), beside(target, fingerprint, "lock"));
        if (folder.exists() || lock.exists())
            && let Ok(Some(_lock)) = Lock::acquire(&lock, Claim::Alone)
        {
            let _ = fs::remove_dir_all(folder);
        }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes incomplete files: all of them, or those of this process where others work too.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn remove_unfinished(&self) -> Result<()> {
        let ending = match self.lock.claim {
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

    /// Moves the folder to its target; working folders of the same target that are not in use are removed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn commit(self) -> Result<()> {
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
        match fs::remove_dir_all(&self.path) {
            // Another process with a share of the same work did.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(Error::io("remove", &self.path)),
        }
    }

    /// Working folders and locks of the same target that are not in use. What cannot be removed does no harm.
    fn remove_others(&self) {
        let prefix = format!(".{}.", self.target.file_name().unwrap_or_default().to_string_lossy());
        for entry in fs::read_dir(parent_of(&self.target)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((middle, kind)) = name.strip_prefix(&prefix).and_then(|rest| rest.split_once('.')) else {
                continue;
            };
            if middle.len() != 10 || !middle.bytes().all(|b| b.is_ascii_hexdigit()) {
                continue;
            }
            if matches!(kind, "partial" | "lock") {
                Self::remove_stale(&self.target, middle);
            }
        }
    }
}

/// `.NAME.FINGERPRINT.KIND` in the folder of the target.
fn beside(target: &Path, fingerprint: &str, kind: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{}.{kind}", &fingerprint[..fingerprint.len().min(10)]))
}

/// A locked file, which is removed when the last process releases it.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: File,
    claim: Claim,
}

impl Lock {
    /// Locks a file and creates it first; `None` while another process holds it.
    fn acquire(path: &Path, claim: Claim) -> Result<Option<Self>> {
        let open = File::options().create(true).truncate(false).write(true).read(true).open(path);
        let file = open.map_err(Error::io("write", path))?;
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
        if !is_still(&file, path) {
            return Ok(None);
        }
        if claim == Claim::Alone {
            let pid = std::process::id().to_string();
            // Only for a person who looks: the lock itself is not in the text.
            let _ = file.set_len(0).and_then(|()| (&file).write_all(pid.as_bytes()));
        }
        Ok(Some(Self { path: path.to_path_buf(), file, claim }))
    }
}

impl Drop for Lock {
    /// A process that waits for the removed file notices ([`is_still`]) and starts over. A shared one is removed only
    /// by the process that gets it for itself alone.
    fn drop(&mut self) {
        let alone = match self.claim {
            Claim::Alone => true,
            Claim::Share => {
                self.file.unlock().is_ok() && self.file.try_lock().is_ok() && is_still(&self.file, &self.path)
            }
        };
        if alone {
            let _ = fs::remove_file(&self.path);
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
    let written = File::create(&temporary).and_then(|mut file| {
        write(&mut file)?;
        if flush { file.sync_all() } else { Ok(()) }
    });
    written.and_then(|()| fs::rename(&temporary, path)).map_err(|error| {
        // What a full disk holds of it is of no use.
        let _ = fs::remove_file(&temporary);
        Error::io("write", path)(error)
    })
}

/// Writes a file of a cache, and creates its folder: whole or not at all, but not flushed, for its reader makes a damaged one
/// again. What killed processes left in the folder goes, once in each process.
///
/// # Errors
///
/// [`Error::Io`]; the caller can do without the file.
pub fn write_cached(path: &Path, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    let folder = parent_of(path);
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    if CLEANED.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_path_buf()) {
        // What stays does no harm.
        let _ = remove_abandoned(folder);
    }
    write_whole(path, false, |file| {
        let _ = file.try_lock();
        write(file)
    })
}

/// The folders of caches in which this process has removed what others left.
static CLEANED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Removes the unfinished files of a cache that no process writes any more: a file is locked while it is written, and locks
/// end with their process. It is locked before it is written, so only an empty one may not be locked yet.
fn remove_abandoned(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let is_locked_by_now = |left: fs::Metadata| {
            left.len() > 0 || left.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age >= LOCKED_WITHIN))
        };
        let abandoned = || {
            entry.metadata().is_ok_and(is_locked_by_now)
                && File::open(entry.path()).is_ok_and(|left| left.try_lock().is_ok())
        };
        if entry.file_name().to_string_lossy().ends_with(".tmp") && abandoned() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
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
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
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
    fn a_cache_loses_what_killed_processes_left_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cache");
        write_cached(&dir.path().join("other/a"), |file| file.write_all(b"1")).unwrap();
        fs::create_dir(&folder).unwrap();
        let left = |name: &str, age: Duration| {
            let file = File::create(folder.join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - age).unwrap();
            file
        };
        drop(left("b.123.tmp", LOCKED_WITHIN));
        drop(left("b.tmp.json", LOCKED_WITHIN));
        left("half.126.tmp", Duration::ZERO).write_all(b"1").unwrap();
        let busy = left("c.124.tmp", LOCKED_WITHIN);
        busy.try_lock().unwrap();
        drop(left("new.125.tmp", Duration::ZERO));
        let there = || {
            let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            entries.collect::<BTreeSet<_>>()
        };
        let expected = BTreeSet::from(["a", "b.tmp.json", "c.124.tmp", "new.125.tmp"].map(str::to_owned));
        write_cached(&folder.join("a"), |file| file.write_all(b"1")).unwrap();
        assert_eq!(there(), expected, "one is being written, one may be about to");
        write_cached(&folder.join("a"), |file| file.write_all(b"2")).unwrap();
        assert_eq!(fs::read(folder.join("a")).unwrap(), b"2");
        write_cached(&folder.join("d"), |_| Err(std::io::Error::other("full"))).unwrap_err();
        assert_eq!(there(), expected);
    }

    #[test]
    fn a_cache_is_cleaned_once_in_a_process() {
        let dir = tempfile::tempdir().unwrap();
        write_cached(&dir.path().join("a"), |file| file.write_all(b"1")).unwrap();
        let old = File::create(dir.path().join("b.123.tmp")).unwrap();
        old.set_modified(std::time::SystemTime::now() - LOCKED_WITHIN).unwrap();
        drop(old);
        write_cached(&dir.path().join("c"), |file| file.write_all(b"2")).unwrap();
        assert!(dir.path().join("b.123.tmp").exists(), "listing the folder for each file costs more than the files");
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
    fn processes_that_make_the_same_never_disturb_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let make = |target: &Path| loop {
            if target.join("manifest.json").is_file() {
                WorkingFolder::remove_stale(target, A);
                return;
            }
            let Some(folder) = claimed(target, A, Claim::Alone) else { continue };
            if target.join("manifest.json").is_file() {
                return folder.remove().unwrap();
            }
            folder.write("manifest.json", &[b"{}"]).unwrap();
            return folder.commit().unwrap();
        };
        for round in 0..60 {
            let target = dir.path().join(format!("t{round}"));
            std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(|| make(&target)))));
            assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), round + 1);
        }
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
