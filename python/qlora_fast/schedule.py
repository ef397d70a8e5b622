"""How many updates a run has, and the learning rate of each. Pure arithmetic, no torch.

Updates are counted from 1; update k uses the rate that transformers' schedulers give after k − 1 steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qlora_fast.config import Config


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate over a run.

    Attributes:
        kind: cosine, linear, constant (no warm-up) or constant_with_warmup.
        updates: updates of the whole run.
        warmup: updates over which the rate rises from 0.
    """

    kind: str
    peak: float
    updates: int
    warmup: int

    @classmethod
    def of(cls, config: Config, updates: int) -> Schedule:
        warmup = config.warmup_steps or math.ceil(config.warmup_ratio * updates)
        if config.lr_scheduler_type == "constant":
            warmup = 0
        return cls(config.lr_scheduler_type, config.learning_rate, updates, min(warmup, updates))

    def lr(self, update: int) -> float:
        """The rate that update ``update`` (from 1) is made with."""
        done = update - 1
        if done < self.warmup:
            return self.peak * done / self.warmup
        progress = (done - self.warmup) / max(1, self.updates - self.warmup)
        if self.kind == "cosine":
            return self.peak * 0.5 * (1.0 + math.cos(math.pi * progress))
        if self.kind == "linear":
            return self.peak * max(0.0, 1.0 - progress)
        return self.peak


def updates_per_epoch(samples: int, samples_per_update: int) -> int:
    """ceil(samples / samples per update): the last update of an epoch may be smaller, none is dropped."""
    return math.ceil(samples / samples_per_update)


def total_updates(per_epoch: int, epochs: float, max_steps: int | None) -> int:
    """Updates of a run; a part of an epoch is rounded up, ``max_steps`` wins."""
    return max_steps if max_steps is not None else math.ceil(round(per_epoch * epochs, 6))
