"""A prepared dataset, mapped read-only from disk.

No token is copied before it is needed: the shards stay in the page cache, and a sample is a view. Labels are never
stored; they are made from the supervised spans. Where each column lies in its file is the core's to know
(docs/format.md).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, overload

import numpy as np
from numpy.typing import NDArray

from qlora_fast import _core
from qlora_fast.errors import ArtifactError
from qlora_fast.hub.cache import cache_dir
from qlora_fast.hub.manifest import Verify

if TYPE_CHECKING:
    from qlora_fast._core import Manifest

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

    def __init__(self, path: Path, opened: _core.PreparedFolder) -> None:
        self.path = path
        self.manifest: Manifest = opened.manifest
        self.fingerprint = self.manifest["fingerprint"]
        self.lengths = opened.lengths
        self.supervised = opened.supervised
        self._largest_id = opened.largest_id
        self._shards = [_map_shard(path / file, columns) for file, columns in opened.shards]
        self._starts = np.cumsum([0, *(len(s.record_index) for s in self._shards)]).tolist()

    def check_ids(self, vocabulary: int) -> None:
        """Every token id has an embedding.

        Args:
            vocabulary: how many token ids there are.

        Raises:
            ArtifactError: an id is outside; the message names the shard and the row.
        """
        if self._largest_id is not None and self._largest_id < vocabulary:
            return  # known since the shards were verified
        for number, shard in enumerate(self._shards):
            outside = (shard.input_ids < 0) | (shard.input_ids >= vocabulary)
            if not outside.any():
                continue
            at = int(outside.argmax())
            sample = self._starts[number] + bisect_right(shard.sample_offsets, at) - 1
            file = self.manifest["shards"][number]["file"]
            raise ArtifactError(
                f"`{self.path / file}` has the token id {int(shard.input_ids[at]):,} in the sample of {self.origin(sample)}; the "
                f"model has {vocabulary:,} embeddings",
                hint="delete the folder and prepare the data again with the model's own tokenizer",
            )

    def by_dataset(self) -> dict[str, NDArray[np.int64]]:
        """Samples of each dataset, in the order of the datasets; one of them may be several files."""
        sources = [source["dataset"] or source["path"] for source in self.manifest["sources"]]
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


def open_prepared(
    path: str | Path, *, verify: Verify = "full", progress: Callable[[str, int, int], object] | None = None
) -> PreparedDataset:
    """Open a folder that ``qlora-fast prep`` wrote. Nothing is loaded: token ids stay in the page cache.

    Args:
        path: the folder with manifest.json.
        verify: ``full`` compares every byte with the hash that was stored when it was written, ``quick`` reads every
            value and checks its range, ``off`` checks sizes, headers, offsets and spans only. What was verified and has
            not changed since is not read again.
        progress: called with (stage, bytes done, bytes in all) a few times a second.

    Raises:
        ArtifactError: the folder is not a complete prepared dataset of this format version, or a file in it is damaged.

    Example:
        >>> made = qlora_fast.prepare("data.json", model_name_or_path="models/tiny")
        >>> len(qlora_fast.open_prepared(made.path))
        20
    """
    folder = Path(path)
    opened = _core.open_prepared(folder, verify=verify, cache=cache_dir(), progress=progress)
    return PreparedDataset(folder, opened)


def _map_shard(path: Path, columns: Sequence[tuple[str, str, int, Sequence[int]]]) -> _Shard:
    """Map one shard; where its columns lie was read and checked by the core."""
    # np.asarray drops the memmap subclass, whose slicing costs microseconds each.
    raw = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    mapped: dict[str, Any] = {}
    for name, dtype, offset, shape in columns:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        mapped[name] = raw[offset : offset + size].view(dtype).reshape(shape)
    mapped.pop("padding", None)
    return _Shard(**{"record_question": None, **mapped})


def _concat(arrays: list[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=dtype)
