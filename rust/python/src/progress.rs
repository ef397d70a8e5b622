//! Work without the GIL that reports progress, and that an exception or Ctrl-C ends.

use crate::error;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use qlora_fast_core::error::Error;
use qlora_fast_core::prepare::Tick;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(100);

/// Runs `work` without the GIL; what `progress`, or a signal handler, raises ends it.
pub(crate) fn run<R: Send>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&mut Tick<'_>) -> Result<R, Error> + Send,
) -> PyResult<R> {
    let mut raised = None;
    let mut last = Instant::now();
    let mut tick = |stage: &'static str, done: u64, total: u64| {
        if last.elapsed() < TICK {
            return true;
        }
        last = Instant::now();
        let called = Python::attach(|py| {
            py.check_signals()?;
            progress.as_ref().map_or(Ok(()), |f| f.call1(py, (stage, done, total)).map(drop))
        });
        called.map_err(|e| raised = Some(e)).is_ok()
    };
    match (py.detach(|| work(&mut tick)), raised) {
        // The core's error also says what was kept.
        (Err(interrupted @ Error::Interrupted { .. }), Some(raised))
            if raised.is_instance_of::<PyKeyboardInterrupt>(py) =>
        {
            Err(error::core(interrupted))
        }
        (_, Some(raised)) => Err(raised),
        (done, None) => done.map_err(error::core),
    }
}
