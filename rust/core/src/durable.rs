//! The one place that writes. A folder is whole or it is not there: it grows under another name beside its place, every
//! file is flushed to disk, and only then is it renamed and the rename itself flushed.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A folder in the making; dropped without [`NewFolder::commit`], it leaves nothing behind.
pub struct NewFolder {
    target: PathBuf,
    temporary: PathBuf,
    committed: bool,
}

impl NewFolder {
    /// Begins `target`, making its parents.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn create(target: &Path) -> Result<Self> {
        let parent = parent_of(target);
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = parent.join(format!(".{name}.tmp-{}", std::process::id()));
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(Error::io("remove", &temporary))?;
        }
        fs::create_dir(&temporary).map_err(Error::io("create", &temporary))?;
        Ok(Self { target: target.to_path_buf(), temporary, committed: false })
    }

    /// Writes one file from its parts, and flushes it to disk.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], a full disk among others.
    pub fn write(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        let path = self.temporary.join(name);
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&path)?;
            parts.iter().try_for_each(|part| file.write_all(part))?;
            file.sync_all()
        };
        write().map_err(Error::io("write", &path))
    }

    /// Appends to a file that [`NewFolder::sync`] flushes in the end.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], a full disk among others.
    pub fn append(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.temporary.join(name);
        let file = File::options().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(bytes)).map_err(Error::io("write", &path))
    }

    /// Flushes a file to disk.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn sync(&self, name: &str) -> Result<()> {
        let path = self.temporary.join(name);
        File::open(&path).and_then(|f| f.sync_all()).map_err(Error::io("write", &path))
    }

    /// Puts the folder in its place. If another process was faster, its folder stays and this one goes.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn commit(mut self) -> Result<()> {
        sync_folder(&self.temporary)?;
        match fs::rename(&self.temporary, &self.target) {
            Ok(()) => self.committed = true,
            Err(_) if self.target.join("manifest.json").is_file() => return Ok(()),
            Err(error) => return Err(Error::io("write", &self.target)(error)),
        }
        sync_folder(parent_of(&self.target))
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.committed {
            // Already on the way out with another error, or beaten by another process.
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
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

    #[test]
    fn a_folder_is_whole_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/b");
        {
            let folder = NewFolder::create(&target).unwrap();
            folder.write("x", &[b"1", b"2"]).unwrap();
            assert!(!target.exists());
        }
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 0);

        let folder = NewFolder::create(&target).unwrap();
        folder.write("x", &[b"1", b"2"]).unwrap();
        folder.commit().unwrap();
        assert_eq!(fs::read(target.join("x")).unwrap(), b"12");
    }
}
