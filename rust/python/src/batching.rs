//! `batching_report` and `padding`: options in, a report out, both as Python objects.

use crate::error;
use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use pythonize::{depythonize, pythonize};
use qlora_fast_core::pack::{self, PlanOptions};
use qlora_fast_core::reasons::{Notice, Reason, Repair};
use qlora_fast_core::{batching as core, prepare};
use std::path::PathBuf;

/// What a prepared folder means for a run: what other cutoffs would truncate, how much padding each way to batch needs.
///
/// Args:
///     folder: with manifest.json.
///     options: how the samples are batched; ``packing`` does not matter.
///
/// Raises:
///     ArtifactError: the folder is no prepared dataset of this version, or damaged.
///     ConfigError: an option is out of its limits.
///     OSError: a file cannot be read.
#[pyfunction]
pub(crate) fn batching_report<'py>(
    py: Python<'py>,
    folder: PathBuf,
    options: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let options: PlanOptions = depythonize(options).map_err(error::option)?;
    let report = py.detach(|| core::batching_report(&folder, &prepare::manifest(&folder)?, &options));
    Ok(pythonize(py, &report.map_err(error::core)?)?)
}

/// How full the rows of the first epoch are under each packing.
///
/// Args:
///     lengths: tokens of each sample, uint32, (samples,), none of them 0.
///     supervised: supervised tokens of each sample, uint32, (samples,).
///     options: how the samples are batched; ``packing`` does not matter.
///
/// Raises:
///     DataError: the columns are not those of one sound dataset.
///     ConfigError: an option is out of its limits.
#[pyfunction]
pub(crate) fn padding<'py>(
    py: Python<'py>,
    lengths: PyReadonlyArray1<'_, u32>,
    supervised: PyReadonlyArray1<'_, u32>,
    options: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let options: PlanOptions = depythonize(options).map_err(error::option)?;
    let (lengths, supervised) = (lengths.as_slice()?, supervised.as_slice()?);
    let fills = py.detach(|| pack::padding(lengths, supervised, &options));
    Ok(pythonize(py, &fills.map_err(error::pack)?)?)
}

/// The names that a report can hold: of reasons, repairs and notices.
#[pyfunction]
pub(crate) fn report_names() -> (Vec<&'static str>, Vec<&'static str>, Vec<&'static str>) {
    (Reason::NAMES.to_vec(), Repair::NAMES.to_vec(), Notice::NAMES.to_vec())
}
