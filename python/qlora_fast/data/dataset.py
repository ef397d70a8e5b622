"""A prepared dataset, mapped read-only from disk, and the rows that a model is fed.

Nothing here copies a token before it is needed: the shards stay in the page cache, a sample is a view, and a
row is one concatenation of views. Labels are never stored; they are made from the supervised spans.

Legend: B sequences in a row, S their length, K supervised tokens, n samples.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, overload

import numpy as np
from numpy.typing import NDArray

from qlora_fast.errors import ArtifactError

FORMAT_VERSION = 2
IGNORE = -100
"""The label of a token that is not learned (the field's own convention)."""


class Sample(TypedDict):
    """One conversation: ``input_ids`` and ``labels``, both int32 of the same length."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class _Shard:
    input_ids: NDArray[np.int32]  # (T,)
    sample_offsets: NDArray[np.int64]  # (N + 1,)
    spans: NDArray[np.int32]  # (S, 2)
    span_offsets: NDArray[np.int64]  # (N + 1,)
    record_file: NDArray[np.int32]  # (N,)
    record_index: NDArray[np.int64]  # (N,)
    record_line: NDArray[np.int64]  # (N,)
    record_question: NDArray[np.int64] | None  # (N,)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a sample came from: ``file``, its 0-based ``row`` in it and the 1-based ``line``."""

    file: str
    row: int
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class PreparedDataset(Sequence[Sample]):
    """A prepared dataset: a sequence of samples, mapped read-only from the folder that ``qlora-fast prep`` wrote.

    ``dataset[i]`` is a dict of ``input_ids`` and ``labels``, both int32, (tokens,); a label is −100 where a token has no loss.
    Labels are not shifted.

    Attributes:
        path: the folder.
        fingerprint: identifies every input that can change a byte of the folder.
        lengths: tokens of each sample, (N,) uint32.
        supervised: supervised tokens of each sample, (N,) uint32.
        manifest: the report of the preparation, as stored beside the shards.

    Example:
        >>> dataset = qlora_fast.prepare("data.json", model_name_or_path="models/tiny")
        >>> dataset[0]["input_ids"].dtype, dataset[0]["input_ids"].shape == dataset[0]["labels"].shape
        (dtype('int32'), True)
        >>> str(dataset.origin(0))  # file and line
        'data.json:2'
    """

    def __init__(self, path: Path, manifest: dict[str, Any], shards: list[_Shard]) -> None:
        self.path = path
        self.manifest = manifest
        self.fingerprint: str = manifest["fingerprint"]
        self._shards = shards
        self._starts = np.cumsum([0, *(len(s.record_index) for s in shards)]).tolist()
        self.lengths: NDArray[np.uint32] = _concat(
            [np.diff(s.sample_offsets).astype(np.uint32) for s in shards], np.uint32
        )
        self.supervised: NDArray[np.uint32] = _concat([_supervised(s) for s in shards], np.uint32)

    def by_dataset(self) -> dict[str, NDArray[np.int64]]:
        """Samples of each dataset, in the order of the datasets; one of them may be several files."""
        sources = [source.get("dataset") or source["path"] for source in self.manifest["sources"]]
        names = list(dict.fromkeys(sources))
        if len(names) == 1:
            return {names[0]: np.arange(len(self), dtype=np.int64)}
        files = _concat([s.record_file for s in self._shards], np.int32)
        number = np.array([names.index(source) for source in sources])[files]
        return {name: np.flatnonzero(number == i) for i, name in enumerate(names)}

    @property
    def questions(self) -> NDArray[np.int64] | None:
        """A hash of each sample's first user turn, (N,); None unless rows were de-duplicated."""
        columns = [s.record_question for s in self._shards if s.record_question is not None]
        return _concat(columns, np.int64) if len(columns) == len(self._shards) else None

    @property
    def rows(self) -> NDArray[np.int64] | None:
        """A number for the row of each sample, (N,); None where every sample has a row of its own."""
        files = _concat([s.record_file for s in self._shards], np.int32).astype(np.int64)
        records = _concat([s.record_index for s in self._shards], np.int64)
        # The samples of a row stand one after the other.
        begins = np.ones(len(records), dtype=np.bool_)
        begins[1:] = (np.diff(files) != 0) | (np.diff(records) != 0)
        return None if begins.all() else np.cumsum(begins, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def ids(self, index: int) -> NDArray[np.int32]:
        """Token ids of a sample: a view of the mapped file."""
        shard, i = self._locate(index)
        return shard.input_ids[shard.sample_offsets[i] : shard.sample_offsets[i + 1]]

    def spans(self, index: int) -> NDArray[np.int32]:
        """Supervised spans of a sample, (k, 2): half-open, ascending, never containing position 0."""
        shard, i = self._locate(index)
        return shard.spans[shard.span_offsets[i] : shard.span_offsets[i + 1]]

    def origin(self, index: int) -> Origin:
        """The record that a sample was made from."""
        shard, i = self._locate(index)
        source = self.manifest["sources"][int(shard.record_file[i])]
        return Origin(source["path"], int(shard.record_index[i]), int(shard.record_line[i]))

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        ids = self.ids(index)
        labels = np.full(len(ids), IGNORE, dtype=np.int32)
        for start, end in self.spans(index):
            labels[start:end] = ids[start:end]
        return {"input_ids": ids, "labels": labels}

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"PreparedDataset({str(self.path)!r}, samples={len(self)}, tokens={int(self.lengths.sum())})"

    def _locate(self, index: int) -> tuple[_Shard, int]:
        index = int(index)
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = bisect_right(self._starts, index) - 1
        return self._shards[shard], index - self._starts[shard]


def open_prepared(path: str | Path) -> PreparedDataset:
    """Open a folder that ``qlora-fast prep`` wrote. Nothing is loaded: token ids stay in the page cache.

    Args:
        path: the folder with manifest.json.

    Raises:
        ArtifactError: the folder is not a complete prepared dataset of this format version, or is damaged.

    Example:
        >>> made = qlora_fast.prepare("data.json", model_name_or_path="models/tiny")
        >>> len(qlora_fast.open_prepared(made.path))
        20
    """
    path = Path(path)
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"`{path}` is not a prepared dataset: it has no manifest.json",
            hint="make one with `qlora-fast prep DATA --out DIR`",
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"`{path}/manifest.json` is damaged: {error}", hint="delete the folder and run `prep` again"
        ) from None
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"`{path}` has format version {version}, this qlora-fast reads {FORMAT_VERSION}",
            hint="prepare the data again with this version",
        )
    return PreparedDataset(path, manifest, [_map_shard(path, s) for s in manifest["shards"]])


_COLUMNS: dict[str, type[np.generic]] = {
    "input_ids": np.int32,
    "sample_offsets": np.int64,
    "spans": np.int32,
    "span_offsets": np.int64,
    "record_file": np.int32,
    "record_index": np.int64,
    "record_line": np.int64,
}
"""What every shard holds."""


def _map_shard(folder: Path, entry: dict[str, Any]) -> _Shard:
    """Map one safetensors file; its size and every offset are checked before anything is trusted."""
    path = folder / entry["file"]
    damaged = f"`{path}` is damaged"
    again = "delete the folder and run `prep` again"
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise ArtifactError(f"`{path}` is missing", hint=again) from None
    if size != entry["bytes"]:
        raise ArtifactError(f"{damaged}: {size} bytes, the manifest says {entry['bytes']}", hint=again)
    raw = np.memmap(path, dtype=np.uint8, mode="r")
    header_len = int(raw[:8].view(np.uint64)[0])
    try:
        header = json.loads(bytes(raw[8 : 8 + header_len]))
        columns = {name: _column(raw, 8 + header_len, header[name], dtype) for name, dtype in _COLUMNS.items()}
        question = header.get("record_question")
        questions = None if question is None else _column(raw, 8 + header_len, question, np.int64)
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{damaged}: {error}", hint=again) from None
    shard = _Shard(**columns, record_question=questions)
    samples, offsets = len(shard.record_index), shard.sample_offsets
    whole = (
        samples == entry["rows"]
        and (questions is None or len(questions) == samples)
        and len(offsets) == len(shard.span_offsets) == samples + 1
        and offsets[0] == 0
        and offsets[-1] == len(shard.input_ids)
        and shard.span_offsets[0] == 0
        and shard.span_offsets[-1] == len(shard.spans)
        and bool((np.diff(offsets) > 0).all())
        and bool((np.diff(shard.span_offsets) >= 0).all())
    )
    if not whole:
        raise ArtifactError(f"{damaged}: its offsets do not fit its columns", hint=again)
    return shard


def _column(raw: NDArray[np.uint8], start: int, entry: dict[str, Any], dtype: type[np.generic]) -> NDArray[Any]:
    begin, end = entry["data_offsets"]
    if not 0 <= begin <= end <= len(raw) - start:
        raise ValueError("a column lies outside the file")
    # np.asarray drops the memmap subclass, whose slicing costs microseconds each.
    column: NDArray[Any] = np.asarray(raw[start + begin : start + end]).view(dtype)
    shaped: NDArray[Any] = column.reshape(entry["shape"])
    return shaped


def _supervised(shard: _Shard) -> NDArray[np.uint32]:
    lengths = (shard.spans[:, 1] - shard.spans[:, 0]).astype(np.int64)
    running = np.concatenate([[0], np.cumsum(lengths)])
    counts: NDArray[np.int64] = running[shard.span_offsets[1:]] - running[shard.span_offsets[:-1]]
    return counts.astype(np.uint32)


def _concat(arrays: list[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=dtype)
