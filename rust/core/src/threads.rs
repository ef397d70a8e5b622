//! Threads of one's own: rayon's pool of the whole process has one a core, whatever was asked for.

use crate::error::{Error, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// A pool of so many threads; 0: one a core.
///
/// # Errors
///
/// [`Error::Option`] if they cannot be started.
pub(crate) fn pool(threads: usize) -> Result<ThreadPool> {
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|e| Error::Option { problem: format!("cannot start threads: {e}") })
}
