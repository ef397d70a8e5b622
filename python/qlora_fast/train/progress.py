"""How far a run is: all its state beside weights, optimizer and random generators; and what happened since the last log step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from qlora_fast.data.plan import EpochPlan, update_samples

Log = dict[str, float]
"""One entry of the training log. A loss that is not finite is NaN here and null in every file."""


@dataclass(slots=True)
class Progress:
    """Where a run stands: everything beside weights, optimizer and random state that a resumed run needs.

    Attributes:
        update: optimizer steps made.
        evaluations_since_best: evaluations in a row without a better one.
        window_loss, window_tokens: summed loss and supervised tokens since the last log entry.
        seconds: time in optimizer steps, of all processes that the run was resumed in.
    """

    update: int = 0
    log_history: list[Log] = field(default_factory=list)
    best_metric: float | None = None
    best_update: int | None = None
    evaluations_since_best: int = 0
    window_loss: float = 0.0
    window_tokens: int = 0
    seconds: float = 0.0

    @classmethod
    def restored(cls, stored: Any) -> Progress:
        """What a checkpoint stored, checked.

        Raises:
            ValueError: a field is unknown, missing or of another type.
        """
        if not isinstance(stored, dict) or set(stored) != {f.name for f in fields(cls)}:
            raise ValueError("its fields are not those of a run's progress")
        made = cls(**stored)
        counts = (made.update, made.evaluations_since_best, made.window_tokens)
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError("a count is not a whole number")
        if not all(isinstance(number, int | float) for number in (made.window_loss, made.seconds)):
            raise ValueError("a sum is not a number")
        if not isinstance(made.best_update, int | None) or not isinstance(made.best_metric, int | float | None):
            raise ValueError("the best evaluation is not a number")
        made.log_history = [_entry(entry) for entry in made.log_history]
        return made


@dataclass(slots=True)
class Window:
    """What happened since the last log step. The loss stays on the device."""

    loss: Tensor
    tokens: int = 0
    samples: int = 0
    seconds: float = 0.0

    def add(self, loss: Tensor, plan: EpochPlan, k: int) -> None:
        """Count update ``k`` of a plan."""
        self.loss += loss
        self.tokens += int(plan.tokens[k])
        self.samples += len(update_samples(plan, k))

    def clear(self) -> None:
        self.loss, self.tokens, self.samples, self.seconds = torch.zeros_like(self.loss), 0, 0, 0.0


def _entry(stored: Any) -> Log:
    """An entry of the log, read from JSON, where null stands for a number that was not finite."""
    if not isinstance(stored, dict) or not all(isinstance(v, int | float | None) for v in stored.values()):
        raise ValueError("an entry of its log is not a list of numbers")
    return {name: math.nan if value is None else value for name, value in stored.items()}
