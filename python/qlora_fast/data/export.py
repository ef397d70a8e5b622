"""Prepared data for other trainers: Parquet, Arrow or JSONL, with the columns that TRL, Axolotl and ``datasets`` read.

A row is a sample, or with ``packed`` as many whole samples as fit, found by best-fit decreasing. Rows are written in
groups, so that memory is bounded; the file appears under its name only when it is whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qlora_fast import _core
from qlora_fast.atomic_io import new_file, new_folder
from qlora_fast.data.dataset import IGNORE, PreparedDataset
from qlora_fast.errors import ConfigError, QloraFastError

if TYPE_CHECKING:
    import pyarrow as pa

Group = dict[str, "_Column"]
Progress = Callable[[str, int, int], None]

COLUMNS = ("input_ids", "labels", "position_ids", "attention_mask", "seq_lengths")
"""What a row can hold: ids; labels, -100 where nothing is learned; positions, from 0 in each sample; a mask of ones;
the lengths of the samples in it."""
DEFAULT_COLUMNS = ("input_ids", "labels", "position_ids")
_GROUP_TOKENS = 1 << 20
"""Tokens of a row group: what bounds the memory."""
_FILE_TOKENS = 64 << 20
"""Tokens of a file in a folder."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    path: Path
    format: str
    rows: int
    samples: int
    tokens: int
    files: int


def export(
    dataset: PreparedDataset,
    to: str | Path,
    *,
    columns: Sequence[str] | None = None,
    packed: int | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write ``dataset`` to ``to``: ``.parquet``, ``.arrow`` (IPC), ``.jsonl``, or a folder of Parquet files.

    Args:
        columns: some of :data:`COLUMNS`; default input_ids, labels, position_ids (and seq_lengths when packed).
        packed: tokens of a row; samples are packed whole, the fullest rows first.

    Raises:
        ConfigError: an unknown column or format, a sample that is longer than ``packed``, or what is there is no earlier
            export.
    """
    to = Path(to)
    chosen = tuple(columns or (DEFAULT_COLUMNS + (("seq_lengths",) if packed else ())))
    unknown = [c for c in chosen if c not in COLUMNS]
    if unknown:
        raise ConfigError(f"no column `{unknown[0]}`", hint=f"columns: {', '.join(COLUMNS)}")
    form = _form(to)
    rows = _rows(dataset, packed)
    groups = _groups(dataset, rows, chosen, progress)
    if form == "folder":
        files = _write_folder(groups, chosen, to)
    else:
        files = 1
        if to.exists() and not _is_export(to, form):
            raise ConfigError(
                f"`{to}` already exists and is not an export", hint="name another file; it was not touched"
            )
        with new_file(to) as path, _WRITERS[form](path, chosen) as write:
            for group in groups:
                write(group)
    return Exported(to, form, len(rows), len(dataset), int(dataset.lengths.sum(dtype=np.int64)), files)


class Rows(Protocol):
    """Sample indices of each row."""

    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> Sequence[int] | NDArray[np.int64]: ...


@dataclass(frozen=True, slots=True)
class _Packed:
    sample_ids: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int64]:
        return self.sample_ids[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True, slots=True)
class _Single:
    samples: int

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, row: int) -> Sequence[int]:
        return (row,)


def _rows(dataset: PreparedDataset, packed: int | None) -> Rows:
    if packed is None:
        return _Single(len(dataset))
    longest = int(dataset.lengths.max())
    if packed < longest:
        raise ConfigError(
            f"rows of {packed:,} tokens are shorter than the longest sample ({longest:,})",
            hint=f"pack into {longest:,} or more, or prepare with `cutoff_len={packed}`",
        )
    return _Packed(*_core.pack(dataset.lengths, packed))


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of some rows: all values concatenated, and where each row ends."""

    values: NDArray[np.int32]
    offsets: NDArray[np.int32]

    def rows(self) -> Iterator[list[int]]:
        return (self.values[a:b].tolist() for a, b in pairwise(self.offsets.tolist()))


def _groups(dataset: PreparedDataset, rows: Rows, columns: Sequence[str], progress: Progress | None) -> Iterator[Group]:
    """Rows in groups of about a million tokens."""
    group: list[Sequence[int] | NDArray[np.int64]] = []
    tokens = 0
    for number in range(len(rows)):
        group.append(rows[number])
        tokens += int(dataset.lengths[group[-1]].sum())
        if tokens >= _GROUP_TOKENS or number + 1 == len(rows):
            yield _group(dataset, group, columns)
            group, tokens = [], 0
            if progress is not None:
                progress("exporting", number + 1, len(rows))


def _group(
    dataset: PreparedDataset, rows: Sequence[Sequence[int] | NDArray[np.int64]], columns: Sequence[str]
) -> Group:
    samples = np.concatenate(rows).astype(np.int64)
    samples_before = np.cumsum([0, *map(len, rows)])
    lengths = dataset.lengths[samples].astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    row_ends = starts[samples_before]
    ids = np.concatenate([dataset.ids(i) for i in samples.tolist()])
    made: dict[str, Callable[[], _Column]] = {
        "input_ids": lambda: _Column(ids, row_ends),
        "labels": lambda: _Column(_labels(dataset, samples.tolist(), starts.tolist(), ids), row_ends),
        "position_ids": lambda: _Column(
            np.arange(len(ids), dtype=np.int32) - np.repeat(starts[:-1], lengths), row_ends
        ),
        "attention_mask": lambda: _Column(np.ones(len(ids), dtype=np.int32), row_ends),
        "seq_lengths": lambda: _Column(lengths, samples_before.astype(np.int32)),
    }
    return {name: made[name]() for name in columns}


def _labels(
    dataset: PreparedDataset, samples: list[int], starts: list[int], ids: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Spans never hold the first token of a sample, so no label is predicted from the sample before."""
    labels = np.full(len(ids), IGNORE, dtype=np.int32)
    for sample, start in zip(samples, starts, strict=False):
        for first, end in dataset.spans(sample).tolist():
            labels[start + first : start + end] = ids[start + first : start + end]
    return labels


Write = Callable[[Group], None]


def _form(path: Path) -> str:
    suffix = path.suffix.lower().removeprefix(".")
    if suffix in _WRITERS:
        return suffix
    if suffix == "":
        return "folder"
    raise ConfigError(
        f"`{path}`: `.{suffix}` is no format to export to",
        hint=".parquet, .arrow, .jsonl, or a folder without a suffix",
    )


def _is_export(file: Path, form: str) -> bool:
    """Whether a file may be replaced: it has columns of ours, and no others."""
    try:
        if form == "jsonl":
            with file.open(encoding="utf-8") as lines:
                names: Any = json.loads(lines.readline())
        else:
            pa = _pyarrow()
            from pyarrow.parquet import read_schema

            with file.open("rb") as source:
                names = (read_schema(source) if form == "parquet" else pa.ipc.open_file(source).schema).names
    except (OSError, ValueError):  # pyarrow's own errors are ValueErrors
        return False
    return isinstance(names, dict | list) and len(names) > 0 and all(name in COLUMNS for name in names)


def _write_folder(groups: Iterator[Group], columns: Sequence[str], to: Path) -> int:
    """``data-00000.parquet``, …: what ``datasets.load_dataset("parquet", data_dir=…)`` reads."""
    if to.exists() and (not to.is_dir() or any(p.suffix != ".parquet" for p in to.iterdir())):
        raise ConfigError(
            f"`{to}` already exists and is not an export", hint="name another folder; nothing was touched"
        )
    number = 0
    with new_folder(to) as folder:
        group = next(groups, None)
        while group is not None:
            tokens = 0
            with _parquet(folder / f"data-{number:05}.parquet", columns) as write:
                while group is not None and tokens < _FILE_TOKENS:
                    write(group)
                    tokens += max(len(column.values) for column in group.values())
                    group = next(groups, None)
            number += 1
    return number


@contextmanager
def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Write]:
    pa = _pyarrow()
    from pyarrow.parquet import ParquetWriter

    schema = _schema(columns)
    # Ids of 32 bits say little twice: a dictionary only costs time. Labels and positions compress to nearly nothing.
    with ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        yield lambda group: writer.write_table(_table(pa, schema, group), row_group_size=None)


@contextmanager
def _arrow(path: Path, columns: Sequence[str]) -> Iterator[Write]:
    pa = _pyarrow()
    schema = _schema(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        yield lambda group: writer.write_table(_table(pa, schema, group))


@contextmanager
def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:

        def write(group: Group) -> None:
            for row in zip(*(group[name].rows() for name in columns), strict=True):
                values = dict(zip(columns, row, strict=True))
                file.write(json.dumps(values, separators=(",", ":")) + "\n")

        yield write


_WRITERS: dict[str, Callable[[Path, Sequence[str]], Any]] = {"parquet": _parquet, "arrow": _arrow, "jsonl": _jsonl}


def _schema(columns: Sequence[str]) -> pa.Schema:
    pa = _pyarrow()
    return pa.schema([(name, pa.list_(pa.int32())) for name in columns])


def _table(pa: Any, schema: pa.Schema, group: Group) -> pa.Table:
    """Lists without a Python object for each number."""
    lists = [
        pa.ListArray.from_arrays(pa.array(c.offsets), pa.array(c.values))
        for c in (group[name] for name in schema.names)
    ]
    return pa.Table.from_arrays(lists, schema=schema)


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
        import pyarrow.ipc
    except ImportError:
        raise QloraFastError(
            "writing Parquet and Arrow needs pyarrow", hint="pip install 'qlora-fast[export]', or export to .jsonl"
        ) from None
    return pa
