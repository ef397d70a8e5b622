//! `review` and `padding`: JSON options in, JSON out.

use crate::error;
use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use qlora_fast_core::pack::{self, PlanOptions};
use qlora_fast_core::reasons::{Notice, Reason, Repair};
use qlora_fast_core::{batching as core, prepare};
use std::path::PathBuf;

#[pyfunction]
pub(crate) fn review(py: Python<'_>, folder: PathBuf, options: &str) -> PyResult<String> {
    let options: PlanOptions = serde_json::from_str(options).map_err(error::option)?;
    let reviewed = py.detach(|| core::review(&folder, &prepare::manifest(&folder)?, &options));
    serde_json::to_string(&reviewed.map_err(error::core)?).map_err(error::option)
}

#[pyfunction]
pub(crate) fn padding(
    py: Python<'_>,
    lengths: PyReadonlyArray1<'_, u32>,
    supervised: PyReadonlyArray1<'_, u32>,
    options: &str,
) -> PyResult<String> {
    let options: PlanOptions = serde_json::from_str(options).map_err(error::option)?;
    let (lengths, supervised) = (lengths.as_slice()?, supervised.as_slice()?);
    let fills = py.detach(|| pack::padding(lengths, supervised, &options));
    serde_json::to_string(&fills.map_err(error::pack)?).map_err(error::option)
}

/// What a report can hold: names of (reasons, repairs, notices).
#[pyfunction]
pub(crate) fn report_names() -> (Vec<&'static str>, Vec<&'static str>, Vec<&'static str>) {
    (Reason::NAMES.to_vec(), Repair::NAMES.to_vec(), Notice::NAMES.to_vec())
}
