"""What prepared data means for a run: worked out by the core, from the lengths alone. No NumPy unless lengths are given.

``batching_report`` is what ``prep`` and ``report`` show; ``padding`` is the part of it that ``plan`` needs for its own samples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qlora_fast import _core

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qlora_fast._core import BatchingReport, LengthCounts, PackingOptions
    from qlora_fast.data.plan import PlanOptions


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
    return [Fill(**fill) for fill in _core.padding(lengths, supervised, _options(options))]


def batching_report(folder: Path, options: PlanOptions) -> BatchingReport:
    """What other cutoffs would take (``cutoffs``, ``suggested_cutoff``), what each way to batch costs (``padding``)
    and what comes of common effective batches (``effective_batches``).

    Raises:
        ArtifactError: the folder is not a whole prepared dataset.
    """
    return _core.batching_report(folder, _options(options))


def counts(full_lengths: str) -> LengthCounts:
    """How many samples have each length, of a manifest's ``full_lengths``: before truncation."""
    return _core.length_counts(full_lengths)


def _options(options: PlanOptions) -> PackingOptions:
    return {**asdict(options), "rows_per_update": options.samples_per_update}  # type: ignore[typeddict-item]
