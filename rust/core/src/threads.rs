//! Thread pools of a given size; rayon's global pool always has one thread per core.

use crate::error::{Error, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// A pool of `threads` threads; 0: one per core.
///
/// # Errors
///
/// [`Error::Option`] if they cannot be started.
pub(crate) fn pool(threads: usize) -> Result<ThreadPool> {
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|e| Error::Option { problem: format!("cannot start threads: {e}") })
}
