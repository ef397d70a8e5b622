//! Packing and planning: NumPy columns in, NumPy columns out.

use crate::error;
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use qlora_fast_core::pack::{self as core, PlanOptions};

type Ids<'py> = Bound<'py, PyArray1<i64>>;

/// The updates of one epoch, as columns.
#[pyclass(frozen, get_all, module = "qlora_fast._core")]
pub(crate) struct EpochPlan {
    sample_ids: Py<PyArray1<i64>>,
    row_offsets: Py<PyArray1<i64>>,
    update_offsets: Py<PyArray1<i64>>,
    supervised: Py<PyArray1<i64>>,
    tokens: Py<PyArray1<i64>>,
    digest: String,
}

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

#[pyfunction]
pub(crate) fn packing_lower_bound(lengths: PyReadonlyArray1<'_, u32>, capacity: u32) -> PyResult<u64> {
    core::lower_bound(lengths.as_slice()?, capacity).map_err(error::pack)
}
