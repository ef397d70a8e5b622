//! Text → ids alone: many texts at once, NumPy columns out.

use crate::error;
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use qlora_fast_core::tokenizer::{self as core, Choice};
use std::path::PathBuf;

type Columns<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<i64>>);

/// A `tokenizer.json` as plain text meets it: no control token is ever found in text.
#[pyclass(frozen, module = "qlora_fast._core")]
pub(crate) struct Tokenizer(core::Tokenizer);

#[pymethods]
impl Tokenizer {
    #[new]
    #[pyo3(signature = (path, *, engine="auto"))]
    fn new(py: Python<'_>, path: PathBuf, engine: &str) -> PyResult<Self> {
        let engine: Choice = serde_json::from_value(engine.into()).map_err(error::option)?;
        py.detach(|| core::Tokenizer::load(&path, engine)).map(Self).map_err(error::core)
    }

    #[getter]
    fn engine(&self) -> &'static str {
        self.0.engine().name()
    }

    #[getter]
    fn reason(&self) -> Option<&str> {
        self.0.reason()
    }

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
