//! A prepared folder, opened: where each column lies in its file, for Python to map, and what was worked out from them.

use crate::{error, progress};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pythonize::pythonize;
use qlora_fast_core::dataset::{Opened, Placed, Shard, Verify};
use qlora_fast_core::prepare as core;
use qlora_fast_core::stats::Lengths;
use std::path::PathBuf;

/// Files of a prepared folder, and what is wrong with each.
type Problems = Vec<(String, String)>;

/// Name, NumPy type, offset in the file, shape.
type ColumnPlace = (&'static str, &'static str, u64, Vec<usize>);

/// A prepared folder whose shards were checked; N samples.
#[pyclass(frozen, get_all, module = "qlora_fast._core")]
pub(crate) struct PreparedFolder {
    /// What was prepared, from which files, with which result.
    manifest: Py<PyAny>,
    /// File of each shard, and of its columns: name, NumPy type, offset in the file, shape.
    shards: Vec<(String, Vec<ColumnPlace>)>,
    /// Tokens of each sample, (N,).
    lengths: Py<PyArray1<u32>>,
    /// Supervised tokens of each sample, (N,).
    supervised: Py<PyArray1<u32>>,
    /// The largest token id; None if the ids were not read.
    largest_id: Option<u32>,
    /// Bytes that were read to verify them; 0: all was verified before.
    bytes_verified: u64,
}

/// Open a prepared folder: check and verify its shards, and find their columns.
///
/// Args:
///     folder: with manifest.json.
///     verify: full (every byte by its hash), quick (every value by its range) or off (sizes, headers, offsets and spans).
///     cache: folder in which is remembered what was verified; None: only this process remembers.
///     progress: as for :func:`prepare`.
///
/// Raises:
///     ArtifactError: the folder is no prepared dataset of this version, or a file in it is damaged.
///     ConfigError: there is no such way to verify.
///     OSError: a file cannot be read.
#[pyfunction]
#[pyo3(signature = (folder, *, verify="full", cache=None, progress=None))]
pub(crate) fn open_prepared(
    py: Python<'_>,
    folder: PathBuf,
    verify: &str,
    cache: Option<PathBuf>,
    progress: Option<Py<PyAny>>,
) -> PyResult<PreparedFolder> {
    let verify: Verify = verify.parse().map_err(error::core)?;
    let (manifest, opened) = progress::run(py, progress, |tick| core::open(&folder, verify, cache.as_deref(), tick))?;
    let largest_id = opened.largest_id();
    let Opened { shards, bytes_read, .. } = opened;
    let joined = |column: fn(&Shard) -> &Vec<u32>| {
        shards.iter().flat_map(column).copied().collect::<Vec<u32>>().into_pyarray(py).unbind()
    };
    let (lengths, supervised) = (joined(|shard| &shard.lengths), joined(|shard| &shard.supervised));
    let files = manifest.shards.iter().map(|shard| shard.file.clone());
    let shards = files.zip(shards.iter().map(|shard| shard.columns.iter().map(place).collect())).collect();
    let manifest = pythonize(py, &manifest)?.unbind();
    Ok(PreparedFolder { manifest, shards, lengths, supervised, largest_id, bytes_verified: bytes_read })
}

fn place(placed: &Placed) -> ColumnPlace {
    let dtype = if placed.column.width() == 4 { "<i4" } else { "<i8" };
    (placed.column.name(), dtype, placed.offset, placed.shape.clone())
}

/// The manifest of a prepared folder; its shards are not looked at.
///
/// Args:
///     folder: with manifest.json.
///
/// Raises:
///     ArtifactError: the folder is no prepared dataset of this version, or its manifest is damaged.
///     OSError: a file cannot be read.
#[pyfunction]
pub(crate) fn read_manifest(py: Python<'_>, folder: PathBuf) -> PyResult<Bound<'_, PyAny>> {
    let manifest = py.detach(|| core::manifest(&folder)).map_err(error::core)?;
    Ok(pythonize(py, &manifest)?)
}

/// Read every byte of a prepared folder.
///
/// Args:
///     folder: with manifest.json.
///     progress: as for :func:`prepare`.
///
/// Returns:
///     Its manifest, and (file, problem) of each file that is not as it was written.
///
/// Raises:
///     ArtifactError: even its manifest cannot be used.
///     OSError: a file cannot be read.
#[pyfunction]
#[pyo3(signature = (folder, progress=None))]
pub(crate) fn verify_prepared(
    py: Python<'_>,
    folder: PathBuf,
    progress: Option<Py<PyAny>>,
) -> PyResult<(Bound<'_, PyAny>, Problems)> {
    let (manifest, problems) = progress::run(py, progress, |tick| core::problems(&folder, tick))?;
    Ok((pythonize(py, &manifest)?, problems))
}

/// How many samples have each length; a bucket of several lengths counts as its mean one.
#[pyclass(frozen, get_all, module = "qlora_fast._core")]
pub(crate) struct LengthCounts {
    /// The lengths, ascending.
    lengths: Vec<u64>,
    /// Samples of each length.
    samples: Vec<u64>,
    /// All samples.
    total_samples: u64,
    /// All tokens.
    total_tokens: u64,
}

/// Read the ``full_lengths`` of a manifest.
///
/// Raises:
///     ConfigError: it is no such text.
#[pyfunction]
pub(crate) fn length_counts(full_lengths: &str) -> PyResult<LengthCounts> {
    let counted: Lengths = full_lengths.parse().map_err(error::option)?;
    let (lengths, samples) = counted.histogram().unzip();
    Ok(LengthCounts { lengths, samples, total_samples: counted.samples(), total_tokens: counted.tokens() })
}
