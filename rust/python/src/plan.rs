//! Packing and planning: NumPy columns in, NumPy columns out.

use crate::error;
use numpy::{IntoPyArray, PyArray1, PyArrayMethods, PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PySlice};
use qlora_fast_core::pack::{self as core, PlanOptions};

type Ids<'py> = Bound<'py, PyArray1<i64>>;

/// The optimizer steps of one epoch, as columns. Every sample is in exactly one row; a row is one forward pass.
///
/// ``len(plan)`` is the number of rows, ``plan[i]`` is ``plan.row(i)``, and iterating gives the rows in order.
#[pyclass(frozen, get_all, module = "qlora_fast._core")]
pub(crate) struct EpochPlan {
    /// Sample indices, row after row: int64, (samples,).
    sample_ids: Py<PyArray1<i64>>,
    /// Row ``r`` is ``sample_ids[row_offsets[r]:row_offsets[r + 1]]``: int64, (rows + 1,). Empty rows fill an optimizer step up to
    /// a multiple of the number of devices.
    row_offsets: Py<PyArray1<i64>>,
    /// Optimizer step ``u`` is the rows from ``update_offsets[u]`` up to ``update_offsets[u + 1]``: int64, (optimizer steps + 1,).
    update_offsets: Py<PyArray1<i64>>,
    /// Supervised tokens of each optimizer step, by which its loss is divided: int64, (optimizer steps,).
    supervised: Py<PyArray1<i64>>,
    /// Tokens of each optimizer step: int64, (optimizer steps,).
    tokens: Py<PyArray1<i64>>,
    /// A hash of the whole plan, 64 hex digits: equal plans have equal digests on every machine.
    digest: String,
}

#[pymethods]
impl EpochPlan {
    /// The samples of one row.
    ///
    /// Args:
    ///     index: the row; negative ones count from the end.
    ///
    /// Returns:
    ///     Their indices, int64, (samples of the row,): a view of ``sample_ids``.
    ///
    /// Raises:
    ///     IndexError: there is no such row.
    fn row<'py>(&self, py: Python<'py>, index: isize) -> PyResult<Bound<'py, PyAny>> {
        let rows = self.__len__(py);
        let row = if index < 0 { index.checked_add_unsigned(rows) } else { Some(index) };
        let Some(row) = row.and_then(|row| usize::try_from(row).ok()).filter(|&row| row < rows) else {
            return Err(PyIndexError::new_err(format!("the plan has {rows} rows, and none of number {index}")));
        };
        let offsets = self.row_offsets.bind(py).try_readonly()?;
        let offsets = offsets.as_slice()?;
        let range = PySlice::new(py, offsets[row] as isize, offsets[row + 1] as isize, 1);
        self.sample_ids.bind(py).get_item(range)
    }

    /// The samples of each row, in order: an iterator over :meth:`row`.
    fn rows<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyIterator>> {
        slf.try_iter()
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.row_offsets.bind(py).len().saturating_sub(1)
    }

    fn __getitem__<'py>(&self, py: Python<'py>, index: isize) -> PyResult<Bound<'py, PyAny>> {
        self.row(py, index)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let (samples, rows, steps) = (self.sample_ids.bind(py).len(), self.__len__(py), self.tokens.bind(py).len());
        format!("EpochPlan({samples} samples, {rows} rows, {steps} optimizer steps, digest {:.12}…)", self.digest)
    }
}

/// Plan the optimizer steps of one epoch: a pure function of its arguments, on every machine and with any threads.
///
/// Args:
///     lengths: tokens of each sample, uint32, (samples,), none of them 0.
///     supervised: supervised tokens of each sample, uint32, (samples,).
///     packing: exact, dense, bucketed or none.
///     samples_per_update: samples of an optimizer step over all devices (not for dense).
///     micro_batch_size: samples of a padded row (bucketed, none).
///     max_tokens_per_row: tokens of a packed row (exact, dense); a longer sample has a row of its own.
///     rows_per_update: rows of an optimizer step over all devices (dense).
///     world_size: devices that share the rows: row ``j`` of an optimizer step belongs to device ``j % world_size``.
///     seed: the run's seed.
///     epoch: number of the epoch, from 0.
///
/// Raises:
///     DataError: the columns are not those of one sound dataset.
///     ConfigError: a setting is out of its limits.
#[pyfunction]
#[pyo3(signature = (lengths, supervised, *, packing, samples_per_update, micro_batch_size, max_tokens_per_row, rows_per_update, world_size, seed, epoch))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python function")]
pub(crate) fn plan_epoch(
    py: Python<'_>,
    lengths: PyReadonlyArray1<'_, u32>,
    supervised: PyReadonlyArray1<'_, u32>,
    packing: &str,
    samples_per_update: u32,
    micro_batch_size: u32,
    max_tokens_per_row: u32,
    rows_per_update: u32,
    world_size: u32,
    seed: u64,
    epoch: u64,
) -> PyResult<EpochPlan> {
    let options = PlanOptions {
        mode: packing.parse().map_err(error::pack)?,
        samples_per_update,
        micro_batch_size,
        max_tokens_per_row,
        rows_per_update,
        world_size,
        seed,
    };
    let (lengths, supervised) = (lengths.as_slice()?, supervised.as_slice()?);
    let plan = py.detach(|| core::plan_epoch(lengths, supervised, &options, epoch).map(|plan| (plan.digest(), plan)));
    let (digest, plan) = plan.map_err(error::pack)?;
    Ok(EpochPlan {
        sample_ids: plan.sample_ids.into_pyarray(py).unbind(),
        row_offsets: plan.row_offsets.into_pyarray(py).unbind(),
        update_offsets: plan.update_offsets.into_pyarray(py).unbind(),
        supervised: plan.supervised.into_pyarray(py).unbind(),
        tokens: plan.tokens.into_pyarray(py).unbind(),
        digest,
    })
}

/// Hold samples out for evaluation, at random.
///
/// Args:
///     rows: how many samples there are.
///     val_size: below 1 a share, rounded up; from 1 on a count; 0 for none.
///     seed: of the draw.
///     groups: int64, (rows,): samples with equal entries stay on one side.
///
/// Returns:
///     The samples to train on and those to evaluate on: int64, each ascending.
///
/// Raises:
///     ConfigError: ``val_size`` is neither a share nor a count, or leaves nothing to train on.
///     DataError: there are more samples than 32 bits can number.
#[pyfunction]
#[pyo3(signature = (rows, val_size, seed, groups=None))]
pub(crate) fn split<'py>(
    py: Python<'py>,
    rows: usize,
    val_size: f64,
    seed: u64,
    groups: Option<PyReadonlyArray1<'py, i64>>,
) -> PyResult<(Ids<'py>, Ids<'py>)> {
    let split = match groups {
        Some(groups) => core::split_groups(groups.as_slice()?, val_size, seed),
        None => core::split(rows, val_size, seed),
    };
    let split = split.map_err(error::pack)?;
    Ok((split.train.into_pyarray(py), split.eval.into_pyarray(py)))
}

/// Which samples of several datasets an epoch takes.
///
/// Args:
///     sizes: samples of each dataset.
///     weights: share of each dataset in the draws, all above 0; empty: the datasets take turns.
///     strategy: concat (everything once), interleave_under (until the first dataset is used up) or interleave_over (until
///         every dataset is used up; smaller ones repeat).
///     seed: of the draws.
///
/// Returns:
///     For each dataset the indices that are taken, int64, ascending; repeated where a dataset repeats.
///
/// Raises:
///     ConfigError: there is no such strategy, or the weights do not fit the datasets.
///     DataError: there are more samples than 32 bits can number.
#[pyfunction]
pub(crate) fn mix<'py>(
    py: Python<'py>,
    sizes: Vec<usize>,
    weights: Vec<f64>,
    strategy: &str,
    seed: u64,
) -> PyResult<Vec<Ids<'py>>> {
    let strategy = strategy.parse().map_err(error::pack)?;
    let taken = core::mix(&sizes, &weights, strategy, seed).map_err(error::pack)?;
    Ok(taken.into_iter().map(|indices| indices.into_pyarray(py)).collect())
}

/// Pack samples into few rows by best-fit decreasing.
///
/// Args:
///     lengths: tokens of each sample, uint32, (samples,), none of them 0.
///     capacity: tokens of a row; a longer sample has a row of its own.
///
/// Returns:
///     Sample indices row after row, int64, (samples,), and the offsets of the rows in them, int64, (rows + 1,).
///
/// Raises:
///     DataError: a sample has no tokens, or there are too many samples.
///     ConfigError: the capacity is 0 or too large.
#[pyfunction]
pub(crate) fn pack<'py>(
    py: Python<'py>,
    lengths: PyReadonlyArray1<'py, u32>,
    capacity: u32,
) -> PyResult<(Ids<'py>, Ids<'py>)> {
    let lengths = lengths.as_slice()?;
    let packing = py.detach(|| core::pack(lengths, capacity)).map_err(error::pack)?;
    Ok((packing.sample_ids.into_pyarray(py), packing.row_offsets.into_pyarray(py)))
}

/// A number of rows below which no packing can come (the bound L2 of Martello and Toth).
///
/// Args:
///     lengths: tokens of each sample, uint32, (samples,), none of them 0.
///     capacity: tokens of a row; a longer sample counts as a full row.
///
/// Raises:
///     DataError: a sample has no tokens, or there are too many samples.
///     ConfigError: the capacity is 0.
#[pyfunction]
pub(crate) fn packing_lower_bound(lengths: PyReadonlyArray1<'_, u32>, capacity: u32) -> PyResult<u64> {
    core::lower_bound(lengths.as_slice()?, capacity).map_err(error::pack)
}
