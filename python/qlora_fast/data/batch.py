"""One forward pass on one device, on the host: a row of samples, packed or padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.plan import EpochPlan


@dataclass(frozen=True, slots=True)
class Row:
    """One forward pass on one device, still on the host.

    Packed (``cu_seqlens`` is given): B = 1 and the samples are concatenated without padding.
    Padded: B = n, every sample padded on the right to the longest; causal attention never looks at a pad from
    a real token, so the mask matters only to models that are not purely causal.

    Attributes:
        input_ids: (B, S) int64.
        position_ids: (B, S) int64, starting again at 0 in each sample.
        targets: (K,) int64, the tokens to be predicted.
        target_index: (K,) int64, where each is predicted: flat index into (B·S), one before the token itself.
        cu_seqlens: (n + 1,) int32 borders of the samples in the packed row, or None.
        max_seqlen: length of the longest sample.
        attention_mask: (B, S) bool, padded rows only.
        sample_ids: (n,) int64 indices into the dataset.
        n_tokens: real tokens (pads not counted).
    """

    input_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    target_index: NDArray[np.int64]
    cu_seqlens: NDArray[np.int32] | None
    max_seqlen: int
    attention_mask: NDArray[np.bool_] | None
    sample_ids: NDArray[np.int64]
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Batches:
    """The rows of a plan: whether they are packed or padded is decided here and nowhere else.

    Attributes:
        indices: (N,) the samples of the dataset that were planned over; a plan counts positions in them.
    """

    dataset: PreparedDataset
    indices: NDArray[np.int64]
    packed: bool

    def of(self, plan: EpochPlan, row: int) -> Row | None:
        """Row ``row`` of a plan; None for one that only evens out the devices."""
        positions = plan.row(row)
        return self.row(positions) if len(positions) else None

    def row(self, positions: NDArray[np.int64]) -> Row:
        """The samples at these positions of ``indices``."""
        return row_of(self.dataset, self.indices[positions], packed=self.packed)


def row_of(dataset: PreparedDataset, sample_ids: Sequence[int] | NDArray[np.int64], *, packed: bool) -> Row:
    """A row of these samples of the dataset."""
    return packed_row(dataset, sample_ids) if packed else padded_row(dataset, sample_ids)


def packed_row(dataset: PreparedDataset, sample_ids: Sequence[int] | NDArray[np.int64]) -> Row:
    """Samples concatenated, B = 1::

    tokens     a0 a1 a2 | b0 b1 b2 b3 | c0 c1
    positions   0  1  2 |  0  1  2  3 |  0  1
    cu_seqlens  0         3             7      9
    """
    samples = [dataset.ids(int(i)) for i in sample_ids]
    lengths = np.array([len(s) for s in samples], dtype=np.int64)
    borders = np.concatenate([[0], np.cumsum(lengths)])
    total = int(borders[-1])
    input_ids = np.concatenate(samples).astype(np.int64)
    position_ids = np.arange(total, dtype=np.int64) - np.repeat(borders[:-1], lengths)
    label_at = _label_positions(dataset, sample_ids, borders[:-1])
    return Row(
        input_ids=input_ids[None],
        position_ids=position_ids[None],
        targets=input_ids[label_at],
        target_index=label_at - 1,
        cu_seqlens=borders.astype(np.int32),
        max_seqlen=int(lengths.max()),
        attention_mask=None,
        sample_ids=np.asarray(sample_ids, dtype=np.int64),
        n_tokens=total,
    )


def padded_row(dataset: PreparedDataset, sample_ids: Sequence[int] | NDArray[np.int64], pad_id: int = 0) -> Row:
    """Samples one below the other, padded on the right to the longest: the textbook's micro-batch."""
    samples = [dataset.ids(int(i)) for i in sample_ids]
    longest = max(len(s) for s in samples)
    input_ids = np.full((len(samples), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(samples), longest), dtype=np.bool_)
    for row, sample in enumerate(samples):
        input_ids[row, : len(sample)] = sample
        mask[row, : len(sample)] = True
    label_at = _label_positions(dataset, sample_ids, np.arange(len(samples), dtype=np.int64) * longest)
    return Row(
        input_ids=input_ids,
        position_ids=np.broadcast_to(np.arange(longest, dtype=np.int64), input_ids.shape),
        targets=input_ids.reshape(-1)[label_at],
        target_index=label_at - 1,
        cu_seqlens=None,
        max_seqlen=longest,
        attention_mask=mask,
        sample_ids=np.asarray(sample_ids, dtype=np.int64),
        n_tokens=int(mask.sum()),
    )


def own_lengths(row: Row) -> NDArray[np.int64]:
    """For each place of a row, the length of the sample that it belongs to: (B, S). A pad counts to its sample."""
    if row.attention_mask is not None:
        return np.broadcast_to(row.attention_mask.sum(1, dtype=np.int64)[:, None], row.input_ids.shape)
    borders = np.array([0, row.n_tokens]) if row.cu_seqlens is None else row.cu_seqlens.astype(np.int64)
    return np.repeat(np.diff(borders), np.diff(borders))[None]


def _label_positions(
    dataset: PreparedDataset, sample_ids: Sequence[int] | NDArray[np.int64], starts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Flat positions of all supervised tokens of a row, given where each of its samples starts."""
    pieces = [
        np.arange(begin + start, end + start, dtype=np.int64)
        for sample, start in zip(sample_ids, starts.tolist(), strict=True)
        for begin, end in dataset.spans(int(sample)).tolist()
    ]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)
