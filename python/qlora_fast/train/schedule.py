"""How many optimizer steps a run has, the learning rate of each, and when it logs, evaluates and saves. No torch.

Updates are counted from 1; update k uses the rate that transformers' schedulers give after k − 1 steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from qlora_fast.config import Config
from qlora_fast.config.keys.optim import Schedule as Kind


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate over a run.

    Attributes:
        kind: a name of :data:`SHAPES`.
        updates: updates of the whole run.
        warmup: updates over which the rate rises from 0; ``constant`` has none.
        more: what else the kind knows, in transformers' names: ``lr_scheduler_kwargs``, which the config has checked.
    """

    kind: Kind
    peak: float
    updates: int
    warmup: int
    more: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config, updates: int) -> Schedule:
        """The schedule that a config asks for."""
        kind = config.lr_scheduler_type
        warmup = config.warmup_steps or math.ceil(config.warmup_ratio * updates)
        return cls(
            kind,
            config.learning_rate,
            updates,
            0 if kind == "constant" else warmup,
            config.lr_scheduler_kwargs,
        )

    def lr(self, update: int) -> float:
        """The rate that update ``update`` (from 1) is made with."""
        done = update - 1
        if done < self.warmup:
            low = self.number("min_lr_ratio", 0.0)
            return self.peak * (low + (1.0 - low) * _RISE[self.more.get("warmup_type", "linear")](done / self.warmup))
        return self.peak * max(0.0, SHAPES[self.kind](self, done))

    def number(self, name: str, default: float) -> float:
        """A number of ``more``."""
        return float(self.more.get(name, default))

    def progress(self, done: int) -> float:
        """How much of what follows the warm-up is done, in 0 … 1."""
        return (done - self.warmup) / max(1, self.updates - self.warmup)


@dataclass(frozen=True, slots=True)
class Timetable:
    """What happens at which optimizer step: the same for ``plan``, ``train --dry-run`` and ``train``.

    Attributes:
        per_epoch: optimizer steps per epoch.
        log_every, eval_every, save_every: optimizer steps between two of them; None is never.
    """

    per_epoch: int
    rate: Schedule
    log_every: int
    eval_every: int | None
    save_every: int | None

    @classmethod
    def of(cls, config: Config, per_epoch: int) -> Timetable:
        """The timetable that a config asks for, over data that makes ``per_epoch`` optimizer steps per epoch."""
        rate = Schedule.of(config, total_updates(per_epoch, config.num_train_epochs, config.max_steps))

        def every(strategy: str, steps: int | float) -> int | None:
            return {"epoch": per_epoch, "steps": interval(steps, rate.updates)}.get(strategy)

        return cls(
            per_epoch,
            rate,
            log_every=interval(config.logging_steps, rate.updates),
            eval_every=every(config.eval_strategy, config.eval_steps),
            save_every=every(config.save_strategy, config.save_steps),
        )

    @property
    def updates(self) -> int:
        """Optimizer steps of the whole run."""
        return self.rate.updates

    @property
    def epochs(self) -> int:
        """Epochs that the run begins; the last one may be cut short."""
        return -(-self.updates // self.per_epoch)

    @property
    def evaluations(self) -> int:
        """Evaluations of the whole run, the one at its end among them."""
        return 0 if self.eval_every is None else -(-self.updates // self.eval_every)


def updates_per_epoch(samples: int, samples_per_update: int) -> int:
    """ceil(samples / samples per update): the last update of an epoch may be smaller, none is dropped."""
    return math.ceil(samples / samples_per_update)


def total_updates(per_epoch: int, epochs: float, max_steps: int | None) -> int:
    """Updates of a run; a part of an epoch is rounded up, ``max_steps`` wins."""
    return max_steps if max_steps is not None else math.ceil(round(per_epoch * epochs, 6))


def interval(steps: int | float, updates: int) -> int:
    """Updates between two log lines, evaluations or checkpoints; below 1 it is a share of the run, rounded up as in
    transformers' ``TrainerState.compute_steps``.
    """
    return math.ceil(updates * steps) if steps < 1 else int(steps)


def _cosine(s: Schedule, done: int) -> float:
    """Half a wave; ``num_cycles`` counts whole ones."""
    return 0.5 * (1.0 + math.cos(math.pi * s.number("num_cycles", 0.5) * 2.0 * s.progress(done)))


def _cosine_with_min_lr(s: Schedule, done: int) -> float:
    """The same, down to a floor: a tenth of the peak if nothing else is asked for."""
    low = s.number("min_lr", 0.0) / s.peak if "min_lr" in s.more else s.number("min_lr_rate", 0.1)
    return low + (1.0 - low) * _cosine(s, done)


def _cosine_with_restarts(s: Schedule, done: int) -> float:
    progress = s.progress(done)
    return 0.0 if progress >= 1 else 0.5 * (1.0 + math.cos(math.pi * (s.number("num_cycles", 1.0) * progress % 1.0)))


def _polynomial(s: Schedule, done: int) -> float:
    end = s.number("lr_end", 1e-7) / s.peak
    return end + (1.0 - end) * math.pow(1.0 - min(s.progress(done), 1.0), s.number("power", 1.0))


def _inverse_sqrt(s: Schedule, done: int) -> float:
    timescale = s.number("timescale", s.warmup or 10_000)
    return 1.0 / math.sqrt((done + timescale - s.warmup) / timescale)


def _warmup_stable_decay(s: Schedule, done: int) -> float:
    """Of what follows the warm-up a third stays at the peak and the rest falls as a cosine, as in LLaMA-Factory."""
    rest = max(0, s.updates - s.warmup)
    decay = s.number("num_decay_steps", rest - s.number("num_stable_steps", rest // 3))
    stable = s.number("num_stable_steps", rest - decay)
    low = s.number("min_lr_ratio", 0.0)
    progress = (done - s.warmup - stable) / max(1, decay)
    if progress >= 1:
        return low
    fall = _FALL[s.more.get("decay_type", "cosine")]
    return low + (1.0 - low) * fall(max(0.0, progress), s.number("num_cycles", 0.5))


_RISE: dict[str, Callable[[float], float]] = {
    "linear": lambda p: p,
    "cosine": lambda p: 0.5 * (1.0 - math.cos(math.pi * p)),
    "1-sqrt": lambda p: 1.0 - math.sqrt(1.0 - p),
}
_FALL: dict[str, Callable[[float, float], float]] = {
    "linear": lambda p, _: 1.0 - p,
    "cosine": lambda p, cycles: 0.5 * (1.0 + math.cos(math.pi * cycles * 2.0 * p)),
    "1-sqrt": lambda p, _: 1.0 - math.sqrt(p),
}
SHAPES: dict[Kind, Callable[[Schedule, int], float]] = {
    "cosine": _cosine,
    "linear": lambda s, done: 1.0 - s.progress(done),
    "constant": lambda s, done: 1.0,
    "constant_with_warmup": lambda s, done: 1.0,
    "cosine_with_min_lr": _cosine_with_min_lr,
    "cosine_with_restarts": _cosine_with_restarts,
    "polynomial": _polynomial,
    "inverse_sqrt": _inverse_sqrt,
    "warmup_stable_decay": _warmup_stable_decay,
}
"""Share of the peak after so many updates, by kind; transformers' formulas under transformers' names."""
