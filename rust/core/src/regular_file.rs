//! Files that are opened only if they are regular ones: opening a pipe waits for its other end, a device may do anything.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Opens a file for reading; `shown` is its name in messages.
///
/// # Errors
///
/// [`Error::Io`], and [`Error::File`] for a folder, a pipe, a socket or a device.
pub(crate) fn open(path: &Path, shown: &Path) -> Result<File> {
    let refuse = || Error::File {
        path: shown.to_path_buf(),
        problem: "is not a regular file".to_owned(),
        hint: "give the path of a file, or - for standard input".to_owned(),
    };
    // Asked before it is opened, and again of what was opened: the name may have been given to another file.
    if !path.metadata().map_err(Error::io("read", shown))?.is_file() {
        return Err(refuse());
    }
    let file = File::open(path).map_err(Error::io("read", shown))?;
    if file.metadata().map_err(Error::io("read", shown))?.is_file() { Ok(file) } else { Err(refuse()) }
}

/// The content of a regular file.
///
/// # Errors
///
/// As [`open`].
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path, path)?.read_to_end(&mut content).map_err(Error::io("read", path))?;
    Ok(content)
}
