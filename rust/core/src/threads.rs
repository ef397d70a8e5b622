//! Thread pools of a given size (rayon's global pool always has one thread per core), and threads that may be refused: where
//! memory or the number of processes is limited, starting one is an error and no panic.

use crate::error::{Error, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::thread::{Builder, JoinHandle, Scope};

/// A pool of `threads` threads; 0: one per core.
///
/// # Errors
///
/// [`Error::Option`] if they cannot be started.
pub(crate) fn pool(threads: usize) -> Result<ThreadPool> {
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(refused)
}

/// One thread.
///
/// # Errors
///
/// [`Error::Option`] if it cannot be started.
pub(crate) fn start<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    Builder::new().spawn(work).map_err(refused)
}

/// One thread of a scope.
///
/// # Errors
///
/// [`Error::Option`] if it cannot be started.
pub(crate) fn start_in<'scope>(scope: &'scope Scope<'scope, '_>, work: impl FnOnce() + Send + 'scope) -> Result<()> {
    Builder::new().spawn_scoped(scope, work).map(drop).map_err(refused)
}

/// As many threads of a scope as are wanted and can be started, at least one.
///
/// # Errors
///
/// [`Error::Option`] if not even one can be started.
pub(crate) fn start_up_to<'scope, W: FnOnce() + Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    wanted: usize,
    mut work: impl FnMut() -> W,
) -> Result<()> {
    for started in 0..wanted {
        match start_in(scope, work()) {
            Err(error) if started == 0 => return Err(error),
            Err(_) => break,
            Ok(()) => {}
        }
    }
    Ok(())
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::Option { problem: format!("cannot start threads: {error}") }
}
