"""Whether a packed row is the same as its samples: the check of the first row of a run."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from qlora_fast.data.batch import Row, packed_row
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.errors import TrainingError
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.forward import Forward

_ISOLATION_BOUND_32, _ISOLATION_BOUND_16 = 1e-4, 5e-2
"""How far the losses of packed tokens may be from those of the samples alone, by dtype."""
ISOLATION_SAMPLES = 8
"""Samples of a row that are run alone; a full row has a hundred, which would take a GPU seconds of launches."""


def check_isolation(forward: Forward, dataset: PreparedDataset, row: Row) -> float:
    """Compare a packed row with its samples run alone through the model's own code.

    Packing is safe, and the loss is the model's, exactly when they agree; a model that mixes samples in an unforeseen way
    is found here. Of a row of many samples, the first, the last and some between are compared: a model that mixes them does
    so with all but the first.

    Returns:
        mean |difference| ÷ mean loss, over the supervised tokens.

    Raises:
        TrainingError: the two differ by more than rounding, or the model's own loss is not finite.
    """
    sizes, chosen = _compared(dataset, row)
    if not chosen:
        return 0.0
    with forward.scoring():
        pieces = torch.split(forward.token_losses(row)[0], sizes)
        together = torch.cat([pieces[i] for i in chosen])
        alone = torch.cat([forward.reference_losses(packed_row(dataset, [int(row.sample_ids[i])])) for i in chosen])
    error = float((together - alone).abs().mean() / alone.abs().mean().clamp_min(1e-6))
    bound = _ISOLATION_BOUND_32 if forward.dtype == torch.float32 else _ISOLATION_BOUND_16
    if bool((~alone.isfinite()).any()):
        raise TrainingError(
            "the base model's loss is not finite on the first row of the data, before any training",
            hint="its weights overflow in this precision: set dtype: fp32 or bf16: true, and check the model with "
            "`qlora-fast evaluate MODEL dataset=FILE`",
        )
    if not error <= bound:
        raise TrainingError(
            f"packed samples influence each other in this model: their losses differ by {error:.1e} (bound {bound:.0e})",
            hint="set `packing: none` or `packing: bucketed`, and please report the model",
        )
    return error


def check_on_all_ranks(forward: Forward, dataset: PreparedDataset, row: Row | None, ranks: Ranks) -> None:
    """Check this rank's row, if it has one. Ranks that share the base make equally many passes.

    Raises:
        TrainingError: see :func:`check_isolation`.
    """
    shared = forward.stream is not None
    chosen = [] if row is None else _compared(dataset, row)[1]
    passes = 1 + len(chosen) if chosen else 0
    idle = ranks.most(passes) - passes if shared else 0
    if row is not None:
        check_isolation(forward, dataset, row)
    for _ in range(idle):
        forward.idle(training=False)


def _compared(dataset: PreparedDataset, row: Row) -> tuple[list[int], list[int]]:
    """Supervised tokens of each sample of a row, and the places of the samples that are run alone."""
    sizes = [int(dataset.supervised[i]) for i in row.sample_ids.tolist()]
    return sizes, _spread(np.flatnonzero(sizes), ISOLATION_SAMPLES)


def _spread(places: NDArray[np.int64], most: int) -> list[int]:
    """At most ``most`` of ``places``, evenly, with both ends."""
    evenly = np.linspace(0, max(len(places) - 1, 0), min(len(places), most)).round().astype(int)
    return [int(place) for place in places[np.unique(evenly)]]
