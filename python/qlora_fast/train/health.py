"""Whether a run is still sound: numbers that are not finite, found on the device, a loss that diverges, and the errors."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.errors import ArtifactError, TrainingError
from qlora_fast.train.progress import Log

log = logging.getLogger(__name__)

_LOG_STEPS = 3
"""Log entries in a row with a loss beyond the limit after which a run counts as diverging."""
_TIMES, _NATS, _UNIFORM = 2.0, 1.0, 1.2


class FiniteWatch:
    """The first update with a gradient, and the first with weights, that were not finite: two numbers on the device.

    Nothing waits for the device until they are read.
    """

    def __init__(self, device: torch.device) -> None:
        self._first = torch.zeros(2, dtype=torch.int64, device=device)

    def note(self, update: int, loss: Tensor, norm: Tensor, weights: Tensor) -> None:
        """Look at an update: its loss and gradient norm (which were not applied if not finite) and the weights after it."""
        gradient = norm.isfinite() & loss.isfinite()
        after = torch.stack(torch.aminmax(weights)).isfinite().all()
        broken = ~torch.stack([gradient, after])
        self._first = torch.where((self._first == 0) & broken, update, self._first)

    def read(self) -> tuple[int, int]:
        """(first update whose loss or gradient was not finite, first one whose weights were not); 0 for none."""
        gradient, weights = self._first.tolist()
        return gradient, weights


class DivergenceWatch:
    """Says once that the loss diverges: far above where it started, or worse than guessing, for several log entries.

    The limit is twice the first loss (and at least one nat more), but at most 1.2 · ln V, where ln V is the loss of guessing
    among V tokens.
    """

    def __init__(self, vocabulary: int) -> None:
        self._guessing = math.log(max(vocabulary, 2))
        self._said = False

    def look(self, history: Sequence[Log]) -> str | None:
        """What to warn of after the newest entry of the log, or None."""
        entries = [entry for entry in history if "loss" in entry]
        if self._said or len(entries) <= _LOG_STEPS:
            return None
        start, last = entries[0]["loss"], entries[-_LOG_STEPS:]
        limit = min(max(_TIMES * start, start + _NATS), max(_UNIFORM * self._guessing, start + _NATS))
        if not all(entry["loss"] > limit for entry in last):
            return None
        self._said = True
        return (
            f"the run is diverging: its loss is {last[-1]['loss']:.2f} at update {int(last[-1]['step'])}, it started at "
            f"{start:.2f} (guessing among all tokens would give {self._guessing:.2f}); stop it and lower learning_rate"
        )


_NAMED = 8
"""Samples of an update that an error names."""


def step_not_finite(update: int, dataset: PreparedDataset, samples: Sequence[int]) -> TrainingError:
    """The error of an update whose loss or gradient is not finite: which samples it had."""
    where = ", ".join(str(dataset.origin(i)) for i in samples[:_NAMED]) + (", …" if len(samples) > _NAMED else "")
    hint = f"lower learning_rate, or look at its data: {where}"
    if update == 1:
        hint = f"nothing was trained before it: try dtype: fp32, or look at its data: {where}"
    return TrainingError(
        f"the loss or its gradient is not finite in update {update} (samples {list(samples[:_NAMED])}); it was not applied",
        hint=hint,
    )


def weights_not_finite(update: int, rate: float, *, checkpoints_before: bool) -> TrainingError:
    """The error of an update after which the adapter is not finite."""
    saved = "; checkpoints before it are sound" if checkpoints_before else ""
    return TrainingError(
        f"the adapter's weights are not finite after update {update}: the step at learning rate {rate:g} overflowed{saved}",
        hint="lower learning_rate, and keep max_grad_norm above 0",
    )


def overflowed(left_out: int, update: int, scale: float) -> TrainingError:
    """The error of a run in fp16 in which no smaller loss scale helps."""
    return TrainingError(
        f"the gradient overflowed fp16 in {left_out} updates in a row, up to update {update}; none of "
        f"them was applied, and a smaller loss scale (now {scale:g}) no longer helps",
        hint="set bf16: true, or dtype: fp32 on a GPU without bf16; if it began in the middle of the run, lower "
        "learning_rate: the weights have grown too large",
    )


def check_base(model: nn.Module, where: str, prefix: str = "") -> None:
    """Look for NaN and infinity among a base model's weights, once it is loaded: one wait for the device.

    Args:
        model: the whole one, or a part of it, whose weights' names begin with ``prefix``. Weights that are not on the device
            now, or have no memory yet, are not looked at.

    Raises:
        ArtifactError: a weight has some; it names the weight.
    """
    every: list[tuple[str, Tensor]] = [*model.named_parameters(), *model.named_buffers()]
    found = [
        (prefix + n, t) for n, t in every if t.is_floating_point() and not t.is_meta and t.untyped_storage().nbytes()
    ]
    if not found:
        return
    broken = torch.stack([(~torch.stack(torch.aminmax(value.detach())).isfinite()).any() for _, value in found])
    if not bool(broken.any()):
        return
    names = [name for (name, _), bad in zip(found, broken.tolist(), strict=True) if bad]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    raise ArtifactError(
        f"the base model `{where}` has values that are not finite (NaN or infinity) in `{names[0]}`{more}",
        hint="its files are damaged, or hold numbers that this precision cannot: get them again, or set dtype: fp32",
    )
