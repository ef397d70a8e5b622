//! `prepare`, its shares, `look` and `fingerprint`: JSON options in, a JSON report out.

use crate::error;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use qlora_fast_core::error::Error;
use qlora_fast_core::prepare::{self as core, Options, Tick};
use serde::Serialize;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(100);

#[pyfunction]
#[pyo3(signature = (options, progress=None))]
pub(crate) fn prepare(py: Python<'_>, options: &str, progress: Option<Py<PyAny>>) -> PyResult<String> {
    with_progress(py, options, progress, core::prepare)
}

#[pyfunction]
#[pyo3(signature = (options, progress=None))]
pub(crate) fn merge(py: Python<'_>, options: &str, progress: Option<Py<PyAny>>) -> PyResult<String> {
    with_progress(py, options, progress, core::merge)
}

#[pyfunction]
#[pyo3(signature = (options, number, count, progress=None))]
pub(crate) fn prepare_share(
    py: Python<'_>,
    options: &str,
    number: u32,
    count: u32,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    with_progress(py, options, progress, |options, tick| core::prepare_share(options, number, count, tick))
}

/// What a preparation would make of some rows of one of its files.
#[pyfunction]
#[pyo3(signature = (options, file, rows, progress=None))]
pub(crate) fn look(
    py: Python<'_>,
    options: &str,
    file: usize,
    rows: Vec<u64>,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    with_progress(py, options, progress, |options, tick| core::inspect(options, file, &rows, tick))
}

/// Runs `work` without the GIL; what `progress`, or a signal handler, raises ends it.
fn with_progress<R: Serialize + Send>(
    py: Python<'_>,
    options: &str,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&Options, &mut Tick<'_>) -> Result<R, Error> + Send,
) -> PyResult<String> {
    let options: Options = serde_json::from_str(options).map_err(error::option)?;
    let mut raised = None;
    let mut last = Instant::now();
    let mut tick = |stage: &'static str, done: u64, total: u64| {
        if last.elapsed() < TICK {
            return true;
        }
        last = Instant::now();
        let told = Python::attach(|py| {
            py.check_signals()?;
            progress.as_ref().map_or(Ok(()), |f| f.call1(py, (stage, done, total)).map(drop))
        });
        told.map_err(|e| raised = Some(e)).is_ok()
    };
    match (py.detach(|| work(&options, &mut tick)), raised) {
        // A Ctrl-C is told with what the core has to say about it.
        (Err(interrupted @ Error::Interrupted { .. }), Some(raised))
            if raised.is_instance_of::<PyKeyboardInterrupt>(py) =>
        {
            Err(error::core(interrupted))
        }
        (_, Some(raised)) => Err(raised),
        (report, None) => serde_json::to_string(&report.map_err(error::core)?).map_err(error::option),
    }
}

#[pyfunction]
pub(crate) fn fingerprint(py: Python<'_>, options: &str) -> PyResult<String> {
    let options: Options = serde_json::from_str(options).map_err(error::option)?;
    py.detach(|| options.identify()).map(|identity| identity.fingerprint).map_err(error::core)
}
