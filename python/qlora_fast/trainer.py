"""The training loop: update → rows → backward; clip; step; schedule.

::

    for update in plan:
        for row in rows of this rank:
            (Σ cross-entropy / supervised tokens of the whole update).backward()
        sum gradients over ranks; clip; AdamW; next rate

It takes finished parts and knows no path and no config. On a GPU nothing leaves the device between log steps: an update
whose gradient is not finite is skipped there, and found at the next log step, which ends the run.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter

from qlora_fast._core import EpochPlan
from qlora_fast.data import PreparedDataset, Row, packed_row, padded_row
from qlora_fast.errors import TrainingError
from qlora_fast.forward import Forward
from qlora_fast.optim import clip_gradients
from qlora_fast.schedule import Schedule

Log = dict[str, float]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """When something happens; ``None`` is never. Updates count from 1."""

    max_grad_norm: float
    logging_steps: int
    eval_every: int | None
    save_every: int | None
    packed: bool


@dataclass(slots=True)
class Progress:
    """Where a run stands: everything beside weights, optimizer and random state that a resumed run needs."""

    update: int = 0
    log_history: list[Log] = field(default_factory=list)
    best_metric: float | None = None
    best_update: int | None = None
    window_loss: float = 0.0
    window_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the run does beside training. Each is called with the trainer."""

    on_log: Callable[[Trainer, Log], None]
    evaluate: Callable[[Trainer], Log | None]
    save: Callable[[Trainer], None]
    on_update: Callable[[Trainer], None] = lambda _: None


class Interrupted(Exception):  # noqa: N818  it is no error
    """A signal ended the run behind a whole update, and a checkpoint was written."""


class Trainer:
    """One run over one dataset."""

    def __init__(
        self,
        forward: Forward,
        parameters: Sequence[Parameter],
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        dataset: PreparedDataset,
        indices: NDArray[np.int64],
        plan_of_epoch: Callable[[int], EpochPlan],
        options: TrainOptions,
        hooks: Hooks,
        *,
        rank: int = 0,
        world_size: int = 1,
        progress: Progress | None = None,
    ) -> None:
        self.forward = forward
        self.parameters = list(parameters)
        self.optimizer = optimizer
        self.schedule = schedule
        self.dataset = dataset
        self.indices = indices
        self.options = options
        self.hooks = hooks
        self.rank = rank
        self.world_size = world_size
        self.progress = progress or Progress()
        self._plan_of_epoch = plan_of_epoch
        self._plan = plan_of_epoch(0)
        self._planned_epoch = 0
        self.updates_per_epoch = len(self._plan.supervised)
        self._stop = False
        self._finite = torch.ones((), device=forward.device)

    def run(self) -> Progress:
        """Train to the end of the schedule, or to the first signal.

        Raises:
            TrainingError: the self-check failed, or a loss or gradient was not finite.
            Interrupted: after a checkpoint.
        """
        progress = self.progress
        if progress.update == 0 and self.options.packed:
            self._check_packing()
        window = torch.tensor(progress.window_loss, dtype=torch.float64, device=self.forward.device)
        started, since = time.perf_counter() - progress.seconds, time.perf_counter()
        tokens = samples = 0
        with self._signals():
            while progress.update < self.schedule.updates:
                update = progress.update + 1
                plan, k = self._update_of(update)
                loss, norm = self._step(plan, k, self.schedule.lr(update))
                window += loss
                progress.update = update
                progress.window_tokens += int(plan.supervised[k])
                tokens += int(plan.tokens[k])
                first, last = plan.update_offsets[k], plan.update_offsets[k + 1]
                samples += int(plan.row_offsets[last] - plan.row_offsets[first])
                done = update == self.schedule.updates
                if update % self.options.logging_steps == 0 or done:
                    now = time.perf_counter()
                    self._log(window, norm, {"samples": samples, "tokens": tokens}, now - since)
                    window.zero_()
                    progress.window_tokens, tokens, samples, since = 0, 0, 0, now
                progress.seconds = time.perf_counter() - started
                self.hooks.on_update(self)
                if _due(update, self.options.eval_every) or (done and self.options.eval_every):
                    self._evaluate()
                if _due(update, self.options.save_every) or (done and self.options.save_every) or self._stop:
                    progress.window_loss = float(window)
                    self.hooks.save(self)
                if self._stop and not done:
                    raise Interrupted
        return progress

    def _step(self, plan: EpochPlan, k: int, lr: float) -> tuple[Tensor, Tensor]:
        """One update; its summed loss on this rank and its gradient norm, both still on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=self.forward.device)
        supervised = max(int(plan.supervised[k]), 1)
        for row in self.rows(plan, k):
            loss = self.forward.loss_sum(row)
            (loss / supervised).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if self.world_size > 1:
            self._sum_gradients()
        norm = clip_gradients(self.parameters, self.options.max_grad_norm)
        self._apply(norm, lr)
        return total, norm

    def _apply(self, norm: Tensor, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        finite = torch.isfinite(norm)
        if self.forward.device.type == "cpu":
            if not finite:
                self._not_finite()
        else:
            # The fused kernel skips the update when this is not 0; the host is not asked.
            self._finite *= finite
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        self.optimizer.step()

    def rows(self, plan: EpochPlan, k: int) -> Iterator[Row]:
        """This rank's rows of update ``k`` of a plan."""
        make = packed_row if self.options.packed else padded_row
        first, last = int(plan.update_offsets[k]), int(plan.update_offsets[k + 1])
        for row in range(first + self.rank, last, self.world_size):
            chosen = plan.sample_ids[plan.row_offsets[row] : plan.row_offsets[row + 1]]
            if len(chosen):
                yield make(self.dataset, self.indices[chosen])

    def _update_of(self, update: int) -> tuple[EpochPlan, int]:
        epoch, k = divmod(update - 1, self.updates_per_epoch)
        if epoch != self._planned_epoch:
            self._plan, self._planned_epoch = self._plan_of_epoch(epoch), epoch
        return self._plan, k

    def _sum_gradients(self) -> None:
        """One all-reduce of one flat gradient; the loss is divided by the tokens of all ranks already."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _log(self, window: Tensor, norm: Tensor, done: dict[str, int], seconds: float) -> None:
        if self.world_size > 1:
            dist.all_reduce(window)
        if not self._finite:
            self._not_finite()
        progress = self.progress
        loss = float(window) / max(progress.window_tokens, 1)
        if not math.isfinite(loss):
            self._not_finite()
        entry: Log = {
            "step": progress.update,
            "epoch": round(progress.update / self.updates_per_epoch, 4),
            "loss": loss,
            "learning_rate": self.schedule.lr(progress.update),
            "grad_norm": float(norm),
            "samples_per_second": done["samples"] / seconds,
            "tokens_per_second": done["tokens"] / seconds,
            "supervised_tokens_per_second": progress.window_tokens / seconds,
        }
        progress.log_history.append(entry)
        self.hooks.on_log(self, entry)

    def _evaluate(self) -> None:
        result = self.hooks.evaluate(self)
        if result is not None:
            entry: Log = {"step": self.progress.update, "epoch": round(self.progress.update / self.updates_per_epoch, 4)}
            entry |= result
            self.progress.log_history.append(entry)
            self.hooks.on_log(self, entry)

    def _not_finite(self) -> None:
        plan, k = self._update_of(self.progress.update + 1 if self.forward.device.type == "cpu" else self.progress.update)
        first, last = plan.row_offsets[plan.update_offsets[k]], plan.row_offsets[plan.update_offsets[k + 1]]
        where = ", ".join(str(self.dataset.origin(int(i))) for i in self.indices[plan.sample_ids[first:last]][:8])
        raise TrainingError(
            f"the loss or gradient is not finite near update {self.progress.update + 1}; the update was not applied",
            hint=f"lower learning_rate, or look at its samples: {where}",
        )

    def _check_packing(self) -> None:
        """Losses of the first packed row equal those of its samples alone, or packing is not safe with this model."""
        plan, k = self._update_of(1)
        row = next(self.rows(plan, k), None)
        if row is None or len(row.sample_ids) < 2:
            return
        was_training = self.forward.model.training
        self.forward.model.eval()
        together = self.forward.token_losses(row)[0]
        alone = torch.cat([self.forward.token_losses(packed_row(self.dataset, [i]))[0] for i in row.sample_ids.tolist()])
        self.forward.model.train(was_training)
        exact = all(p.dtype == torch.float32 for p in self.forward.model.parameters())
        bound = 1e-3 if exact else 5e-2
        error = float((together - alone).abs().mean() / alone.abs().mean().clamp_min(1e-6))
        if not error <= bound:
            raise TrainingError(
                f"packed samples see each other with this model: their losses differ by {error:.1e} (bound {bound:.0e})",
                hint="set `packing: none` or `packing: bucketed`, and please report the model",
            )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM lets the update end and a checkpoint be written; the second is obeyed at once."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            before: dict[int, Any] = {n: signal.signal(n, stop) for n in numbers}
        except ValueError:  # not in the main thread: the caller's business
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _due(update: int, every: int | None) -> bool:
    return every is not None and update % every == 0
