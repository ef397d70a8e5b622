"""What padding would cost: the share of computed tokens that are real, for each way to batch the same samples."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qlora_fast import _core
from qlora_fast.planning import PlanOptions, epoch_plan


@dataclass(frozen=True, slots=True)
class Fill:
    """One way to batch: its rows (forward passes) an epoch, the tokens they compute, the share of real ones."""

    packing: str
    rows: int
    updates: int
    computed_tokens: int
    real_share: float


def padding(lengths: NDArray[np.uint32], supervised: NDArray[np.uint32], options: PlanOptions) -> list[Fill]:
    """How full the rows of the first epoch are under each packing."""
    return [_fill(lengths, supervised, replace(options, packing=p)) for p in ("none", "bucketed", "exact", "dense")]


def _fill(lengths: NDArray[np.uint32], supervised: NDArray[np.uint32], options: PlanOptions) -> Fill:
    epoch: _core.EpochPlan = epoch_plan(lengths, supervised, options)
    real = int(lengths.sum(dtype=np.int64))
    filled = np.flatnonzero(np.diff(epoch.row_offsets))
    if options.packing in ("exact", "dense"):
        computed = real
    else:
        ordered = lengths[epoch.sample_ids].astype(np.int64)
        longest = np.maximum.reduceat(ordered, epoch.row_offsets[filled])
        computed = int((longest * np.diff(epoch.row_offsets)[filled]).sum())
    return Fill(options.packing, len(filled), len(epoch.update_offsets) - 1, computed, real / max(computed, 1))


def quantiles(lengths: NDArray[np.uint32]) -> dict[str, int]:
    """p50, p90, p95, p99 and the longest, by nearest rank."""
    ordered = np.sort(lengths)
    ranks = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: int(ordered[max(0, int(np.ceil(q * len(ordered))) - 1)]) for name, q in ranks.items()}
