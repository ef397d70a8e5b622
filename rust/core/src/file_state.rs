//! Whether a file has changed: its inode, size and times, which a program cannot all set back.

use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// After this time another change of a file is sure to show in its times, however coarse the file system's clock is.
pub(crate) const SETTLED: Duration = Duration::from_secs(2);

/// A local file system's clock moves on at least this often.
pub(crate) const CLOCK_STEP: Duration = Duration::from_millis(20);

/// What changes with the content of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct FileState {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Times of the last change of the content and of any change, in nanoseconds since 1970. Programs can set the
    /// first one back, the second one not.
    modified: u64,
    changed: u64,
}

impl FileState {
    /// The state of a regular file; `None` where it cannot be relied on.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = path.metadata().ok().filter(Metadata::is_file)?;
        let (device, inode, changed) = identity(&metadata)?;
        let modified = metadata.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let modified = u64::try_from(modified.as_nanos()).ok()?;
        Some(Self { device, inode, bytes: metadata.len(), modified, changed })
    }

    /// Whether the last change is long enough ago that another one would show, on any file system.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_older_than(SETTLED)
    }

    /// Whether both times lie that far in the past.
    pub(crate) fn is_older_than(&self, least: Duration) -> bool {
        [self.modified, self.changed].into_iter().all(|nanos| {
            let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
            SystemTime::now().duration_since(time).is_ok_and(|age| age > least)
        })
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Option<(u64, u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let seconds = u64::try_from(metadata.ctime()).ok()?;
    let nanos = u64::try_from(metadata.ctime_nsec()).ok()?;
    Some((metadata.dev(), metadata.ino(), seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?))
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Option<(u64, u64, u64)> {
    None
}
