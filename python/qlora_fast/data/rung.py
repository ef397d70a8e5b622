"""Rows of a few sizes in place of rows that are all different: what is captured once for a size serves every row of it.

A row is filled up to a *rung*: capacities for its tokens, samples and supervised positions. What fills it is dead::

    tokens      a0 a1 a2 | b0 b1 b2 b3 | d0 d1 … | · | ·      dead samples attend to nothing but themselves, the last ones are empty
    targets      a1  b2  b3 | −1  −1                          a dead position has a negative target: no loss, no gradient

so the loss is that of the row, and its gradient has only zeros added. The capacities follow from the plan, which is known: a
rung has room for every row of its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qlora_fast.data.batch import Row
from qlora_fast.data.plan import EpochPlan

DEAD = -1
"""The target of a position that is not learned from."""
_STEPS = 32
"""Steps up to a power of two: from 2,048 tokens on at most 1/16 of a row is dead."""
_LEAST = 128
"""Tokens between two rungs at the least: of a shorter row up to 127 are dead."""


@dataclass(frozen=True, slots=True)
class Size:
    """Tokens, samples and supervised positions of a row."""

    tokens: int
    samples: int
    supervised: int


@dataclass(frozen=True, slots=True)
class Rung:
    """Capacities of a row, and the longest sample that it may have, dead ones included."""

    tokens: int
    samples: int
    supervised: int
    longest: int

    def holds(self, row: Row) -> bool:
        """Whether a packed row can be filled up to it."""
        if row.cu_seqlens is None or row.max_seqlen > self.longest:
            return False
        size = size_of(row)
        dead = self.tokens - size.tokens
        samples = size.samples + -(-dead // self.longest)
        # A dead position is one that nothing is predicted at.
        return dead >= 0 and samples <= self.samples and size.supervised <= self.supervised <= self.tokens


def size_of(row: Row) -> Size:
    return Size(row.input_ids.size, len(row.sample_ids), len(row.targets))


def row_sizes(plan: EpochPlan, lengths: NDArray[np.uint32], supervised: NDArray[np.uint32]) -> Iterator[Size]:
    """The sizes of a packed plan's rows; those that only even out the devices are left out.

    Args:
        lengths, supervised: of the samples that were planned over.
    """
    samples = np.diff(plan.row_offsets)
    starts = plan.row_offsets[:-1][samples > 0]
    tokens, learned = (
        np.add.reduceat(each[plan.sample_ids].astype(np.int64), starts) for each in (lengths, supervised)
    )
    yield from map(Size, tokens.tolist(), samples[samples > 0].tolist(), learned.tolist())


def capacity(tokens: int) -> int:
    """Tokens of the rung that a row of so many tokens belongs to."""
    step = max(_LEAST, (1 << max(0, tokens - 1).bit_length()) // _STEPS)
    return -(-tokens // step) * step


def ladder(sizes: Iterable[Size], longest: int) -> dict[int, Rung]:
    """The rungs of the rows of a run, by tokens.

    Args:
        longest: tokens of the longest sample of the run.
    """
    most: dict[int, tuple[int, int]] = {}
    for size in sizes:
        tokens = capacity(size.tokens)
        samples, supervised = most.get(tokens, (0, 0))
        dead = -(-(tokens - size.tokens) // longest)
        most[tokens] = (max(samples, size.samples + dead), max(supervised, size.supervised))
    return {
        tokens: Rung(tokens, samples, min(tokens, _rounded(supervised)), longest)
        for tokens, (samples, supervised) in most.items()
    }


def fitted(row: Row, rung: Rung) -> Row:
    """The row filled up to its rung.

    Raises:
        ValueError: the rung does not hold it.
    """
    if row.cu_seqlens is None or not rung.holds(row):
        raise ValueError(f"{rung} does not hold a row of {size_of(row)}")
    tokens = row.input_ids.size
    dead = np.arange(rung.tokens - tokens, dtype=np.int64)
    borders = np.full(rung.samples + 1, rung.tokens, np.int32)
    borders[: len(row.cu_seqlens)] = row.cu_seqlens
    ends = np.arange(tokens + rung.longest, rung.tokens, rung.longest)
    borders[len(row.cu_seqlens) : len(row.cu_seqlens) + len(ends)] = ends
    # Each position once, as of the row's own: their gradients are written, not added up.
    free = np.ones(rung.tokens, np.bool_)
    free[row.target_index] = False
    spare = np.flatnonzero(free)[: rung.supervised - len(row.targets)]
    return replace(
        row,
        input_ids=np.concatenate([row.input_ids[0], np.zeros_like(dead)])[None],
        position_ids=np.concatenate([row.position_ids[0], dead % rung.longest])[None],
        targets=np.concatenate([row.targets, np.full(len(spare), DEAD, np.int64)]),
        target_index=np.concatenate([row.target_index, spare]),
        cu_seqlens=borders,
        max_seqlen=rung.longest,
    )


def _rounded(supervised: int) -> int:
    """A multiple of 64: heads are multiplied in tiles."""
    return max(64, -(-supervised // 64) * 64)
