//! Text → ids, without a template: many texts at once, NumPy columns out.

use crate::error;
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use qlora_fast_core::tokenizer::{self as core, Choice};
use std::path::PathBuf;

type Columns<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<i64>>);

/// A ``tokenizer.json`` for plain text: special tokens stay text, other added tokens are tokens in it.
///
/// Args:
///     path: the ``tokenizer.json``.
///     engine: auto, native or tokenizers; all give equal ids.
///     cache: folder in which compiled tokenizers are kept; None: it is compiled each time.
///
/// Raises:
///     TokenizerError: it cannot be used.
///     ConfigError: there is no such engine.
///     OSError: it cannot be read.
#[pyclass(frozen, module = "qlora_fast._core")]
pub(crate) struct Tokenizer(core::Tokenizer);

#[pymethods]
impl Tokenizer {
    #[new]
    #[pyo3(signature = (path, *, engine="auto", cache=None))]
    fn new(py: Python<'_>, path: PathBuf, engine: &str, cache: Option<PathBuf>) -> PyResult<Self> {
        let engine: Choice = engine.parse().map_err(error::core)?;
        py.detach(|| core::Tokenizer::load(&path, engine, cache.as_deref())).map(Self).map_err(error::core)
    }

    /// The engine that runs: native or tokenizers.
    #[getter]
    fn engine(&self) -> &'static str {
        self.0.engine().name()
    }

    /// Why a slower engine runs, if one does; None where the native one runs or another was asked for.
    #[getter]
    fn reason(&self) -> Option<&str> {
        self.0.reason()
    }

    /// Encode many texts.
    ///
    /// Args:
    ///     texts: the texts.
    ///     threads: how many threads; 0: one for each core.
    ///
    /// Returns:
    ///     All ids concatenated, uint32, (tokens,), and the offsets of the texts in them, int64, (texts + 1,): text ``i`` has
    ///     ``ids[offsets[i]:offsets[i + 1]]``.
    ///
    /// Raises:
    ///     TokenizerError: the engine refuses a text.
    ///     ConfigError: the threads cannot be started.
    #[pyo3(signature = (texts, *, threads=0))]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<pyo3::pybacked::PyBackedStr>,
        threads: usize,
    ) -> PyResult<Columns<'py>> {
        let (ids, lengths) = py.detach(|| self.0.encode_all(&texts, threads)).map_err(error::core)?;
        let mut offsets = Vec::with_capacity(lengths.len() + 1);
        offsets.push(0);
        let mut end = 0;
        offsets.extend(lengths.iter().map(|&n| {
            end += n as i64;
            end
        }));
        Ok((ids.into_pyarray(py), offsets.into_pyarray(py)))
    }
}
