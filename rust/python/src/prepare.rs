//! `prepare` and `fingerprint`: JSON options in, a JSON report out.

use crate::error;
use pyo3::prelude::*;
use qlora_fast_core::prepare::{self as core, Options};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(100);

#[pyfunction]
#[pyo3(signature = (options, progress=None))]
pub(crate) fn prepare(py: Python<'_>, options: &str, progress: Option<Py<PyAny>>) -> PyResult<String> {
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
    let report = py.detach(|| core::prepare(&options, &mut tick));
    match (report, raised) {
        (_, Some(raised)) => Err(raised),
        (report, None) => serde_json::to_string(&report.map_err(error::core)?).map_err(error::option),
    }
}

#[pyfunction]
pub(crate) fn fingerprint(py: Python<'_>, options: &str) -> PyResult<String> {
    let options: Options = serde_json::from_str(options).map_err(error::option)?;
    py.detach(|| options.identify()).map(|identity| identity.fingerprint).map_err(error::core)
}
