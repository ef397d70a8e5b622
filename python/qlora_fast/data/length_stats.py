"""What prepared data means for a run: worked out by the core, from the lengths alone. No NumPy unless lengths are given.

``review`` is what ``prep`` and ``report`` show; ``padding`` is the part of it that ``plan`` needs for its own samples.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qlora_fast import _core

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
    return [Fill(**fill) for fill in json.loads(_core.padding(lengths, supervised, _options(options)))]


def review(folder: Path, options: PlanOptions) -> dict[str, Any]:
    """What other cutoffs would take (``cutoffs``, ``suggested_cutoff``), what each way to batch costs (``padding``)
    and what comes of common effective batches (``effective_batches``).

    Raises:
        ArtifactError: the folder is not a whole prepared dataset.
    """
    reviewed: dict[str, Any] = json.loads(_core.review(folder, _options(options)))
    return reviewed


def histogram(full_lengths: str) -> tuple[list[int], list[int]]:
    """(lengths, samples) of a manifest's ``full_lengths``; a bucket of several lengths counts as its mean one."""
    lengths, samples = [], []
    for entry in full_lengths.split():
        length, count, *tokens = map(int, entry.split(":"))
        lengths.append(tokens[0] // count if tokens else length)
        samples.append(count)
    return lengths, samples


def totals(full_lengths: str) -> tuple[int, int]:
    """(samples, tokens) before truncation."""
    samples = tokens = 0
    for entry in full_lengths.split():
        length, count, *sums = map(int, entry.split(":"))
        samples += count
        tokens += sums[0] if sums else length * count
    return samples, tokens


def _options(options: PlanOptions) -> str:
    return json.dumps({**asdict(options), "rows_per_update": options.samples_per_update})
