//! `prepare`, its shares, `look` and `fingerprint`: options in, a report out, both as Python objects.

use crate::{error, progress};
use pyo3::prelude::*;
use pythonize::{depythonize, pythonize};
use qlora_fast_core::error::Error;
use qlora_fast_core::prepare::{self as core, Options, Tick};
use serde::Serialize;

type Progress = Option<Py<PyAny>>;
type Object<'py> = Bound<'py, PyAny>;

/// Prepare data, or find it prepared: then it is verified, and damaged shards are made again.
///
/// Args:
///     options: what is prepared.
///     progress: called with (stage, bytes done, bytes in all) a few times a second; what it raises ends the work.
///
/// Raises:
///     DataError: a file cannot be read, or nothing of it can be trained on.
///     TokenizerError: the tokenizer or the template does not fit.
///     ConfigError: an option is unknown or has no meaning.
///     ArtifactError: the folder is something else, or damaged beyond its shards.
///     OSError: the operating system refused.
#[pyfunction]
#[pyo3(signature = (options, progress=None))]
pub(crate) fn prepare<'py>(py: Python<'py>, options: &Object<'py>, progress: Progress) -> PyResult<Object<'py>> {
    run(py, options, progress, core::prepare)
}

/// Join the parts that all shares have made: no data is read.
///
/// Args:
///     options: what is prepared.
///     progress: as for :func:`prepare`.
///
/// Raises:
///     ArtifactError: a part is missing.
///     DataError, TokenizerError, ConfigError, OSError: as for :func:`prepare`.
#[pyfunction]
#[pyo3(signature = (options, progress=None))]
pub(crate) fn merge<'py>(py: Python<'py>, options: &Object<'py>, progress: Progress) -> PyResult<Object<'py>> {
    run(py, options, progress, core::merge)
}

/// Make the parts of one of ``count`` shares of a preparation, the first of which is number 1.
///
/// Args:
///     options: what is prepared.
///     number: of the share, from 1.
///     count: of shares.
///     progress: as for :func:`prepare`.
///
/// Raises:
///     DataError, TokenizerError, ConfigError, ArtifactError, OSError: as for :func:`prepare`.
#[pyfunction]
#[pyo3(signature = (options, number, count, progress=None))]
pub(crate) fn prepare_share<'py>(
    py: Python<'py>,
    options: &Object<'py>,
    number: u32,
    count: u32,
    progress: Progress,
) -> PyResult<Object<'py>> {
    run(py, options, progress, |options, tick| core::prepare_share(options, number, count, tick))
}

/// What a preparation would make of some rows of one of its files.
///
/// Args:
///     options: what is prepared.
///     file: number of the file, from 0.
///     rows: numbers of the rows, from 0.
///     progress: as for :func:`prepare`.
///
/// Raises:
///     ConfigError: there is no such row.
///     DataError, TokenizerError, OSError: as for :func:`prepare`.
#[pyfunction]
#[pyo3(signature = (options, file, rows, progress=None))]
pub(crate) fn inspect_rows<'py>(
    py: Python<'py>,
    options: &Object<'py>,
    file: usize,
    rows: Vec<u64>,
    progress: Progress,
) -> PyResult<Object<'py>> {
    run(py, options, progress, |options, tick| core::inspect(options, file, &rows, tick))
}

fn run<'py, R: Serialize + Send>(
    py: Python<'py>,
    options: &Object<'py>,
    progress: Progress,
    work: impl FnOnce(&Options, &mut Tick<'_>) -> Result<R, Error> + Send,
) -> PyResult<Object<'py>> {
    let options: Options = read(options)?;
    let report = progress::run(py, progress, |tick| work(&options, tick))?;
    Ok(pythonize(py, &report)?)
}

fn read(options: &Object<'_>) -> PyResult<Options> {
    depythonize(options).map_err(error::option)
}

/// Identify everything that decides the bytes of a preparation.
///
/// Args:
///     options: what is prepared; its place, engine and threads do not matter.
///
/// Returns:
///     64 hexadecimal digits.
///
/// Raises:
///     TokenizerError: the template is unknown.
///     ConfigError: an option is unknown or has no meaning.
///     OSError: a file cannot be read.
#[pyfunction]
pub(crate) fn fingerprint(py: Python<'_>, options: &Bound<'_, PyAny>) -> PyResult<String> {
    let options = read(options)?;
    py.detach(|| options.identify()).map(|identity| identity.fingerprint).map_err(error::core)
}
