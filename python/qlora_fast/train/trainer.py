"""The training loop: update → rows → backward; clip; step; schedule.

::

    for update in plan:
        for row in rows of this rank:
            (Σ cross-entropy / supervised tokens of the whole update).backward()
        sum gradients over ranks; clip; AdamW at the schedule's rate

It takes finished parts and knows no path and no config. On a GPU nothing leaves the device between log steps: an update
whose gradient is not finite is skipped there, and found at the next log step, which ends the run.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn, Protocol

import torch
from torch import Tensor

from qlora_fast.data.batch import Batches, Row
from qlora_fast.data.plan import EpochPlan, update_samples
from qlora_fast.errors import Interrupted, StorageError
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.forward import Forward
from qlora_fast.train.health import DivergenceWatch, FiniteWatch, overflowed, step_not_finite, weights_not_finite
from qlora_fast.train.isolation import check_on_all_ranks
from qlora_fast.train.loss_scale import HOPELESS
from qlora_fast.train.optimizer import AdamW
from qlora_fast.train.progress import Log, Progress, Window
from qlora_fast.train.row_pass import Eager, RowPass
from qlora_fast.train.schedule import Schedule
from qlora_fast.train.signals import StopRequest
from qlora_fast.train.waiting import Waits

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """When something happens; ``None`` is never. Updates count from 1.

    Attributes:
        patience: evaluations in a row without a better one after which the run ends.
    """

    logging_steps: int
    eval_every: int | None
    save_every: int | None
    patience: int | None = None


class Callbacks(Protocol):
    """What the run does beside training. Each is called with the trainer, on every rank."""

    def on_log(self, trainer: Trainer, entry: Log) -> None:
        """An entry was added to the log."""

    def evaluate(self, trainer: Trainer) -> Log | None:
        """Evaluate, and note in ``progress`` which evaluation is the best; None if there is nothing to evaluate on."""

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint.

        Raises:
            StorageError: it cannot be written.
        """

    def on_update(self, trainer: Trainer) -> None:
        """An optimizer step was made."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """The same as four functions."""

    on_log: Callable[[Trainer, Log], None]
    evaluate: Callable[[Trainer], Log | None]
    save: Callable[[Trainer], None]
    on_update: Callable[[Trainer], None] = lambda _: None


class Trainer:
    """One run over one dataset."""

    def __init__(
        self,
        forward: Forward,
        adapter: Adapter,
        optimizer: AdamW,
        schedule: Schedule,
        batches: Batches,
        plan_of_epoch: Callable[[int], EpochPlan],
        options: TrainOptions,
        callbacks: Callbacks,
        *,
        ranks: Ranks | None = None,
        progress: Progress | None = None,
        row_pass: RowPass | None = None,
    ) -> None:
        self.forward = forward
        self.adapter = adapter
        self.optimizer = optimizer
        self.schedule = schedule
        self.batches = batches
        self.options = options
        self.callbacks = callbacks
        self.ranks = ranks or Ranks()
        self.progress = progress or Progress()
        self._run_row = row_pass or Eager(forward, adapter)
        self._plan_of_epoch = plan_of_epoch
        self._plan = plan_of_epoch(0)
        self._planned_epoch = 0
        self.updates_per_epoch = len(self._plan.supervised)
        self._on_host = forward.device.type == "cpu"
        self._started_at = self.progress.update
        self.waits = Waits(self.ranks, forward.device)
        self._finite = FiniteWatch(forward.device)
        self._divergence = DivergenceWatch(forward.model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
        self.stopping = False
        """Whether a signal was received: what is saved now is what the run resumes from."""

    def run(self) -> Progress:
        """Train to the end of the schedule, or to the first signal.

        Raises:
            TrainingError: the self-check failed, a loss, gradient or weight was not finite, or fp16 overflowed repeatedly.
            Interrupted: after a checkpoint.
        """
        if self.progress.update == 0 and self.batches.packed:
            self._check_first_row()
        carried = self.progress.window_loss if self.ranks.first else 0.0
        window = Window(torch.tensor(carried, dtype=torch.float64, device=self.forward.device))
        with StopRequest(tell=self.ranks.first) as stop:
            while self.progress.update < self.schedule.updates and not self.out_of_patience:
                self._update(window, stop)
        return self.progress

    @property
    def out_of_patience(self) -> bool:
        """Whether early stopping ends the run here; a resumed run knows it from its checkpoint."""
        patience = self.options.patience
        return patience is not None and self.progress.evaluations_since_best >= patience

    def _update(self, window: Window, stop: StopRequest) -> None:
        """One optimizer step, and what is due after it: log, evaluate, save, stop."""
        progress, options = self.progress, self.options
        started = time.perf_counter()
        update = progress.update + 1
        plan, k = self._update_of(update)
        loss, norm = self._step(plan, k, update)
        window.add(loss, plan, k)
        progress.update = update
        progress.window_tokens += int(plan.supervised[k])
        done = update == self.schedule.updates
        log_now = done or _due(update, options.logging_steps)
        # Reading the flags waits for the device: free on a CPU, rare on a GPU.
        look = self._on_host or log_now
        if look:
            self._raise_if_failed()
        self.stopping = look and self._agreed(stop.requested)
        loss_sum = self._over_ranks(window.loss) if log_now else None
        seconds = time.perf_counter() - started
        window.seconds += seconds
        progress.seconds += seconds
        if loss_sum is not None:
            self._log(float(loss_sum), float(norm), window)
        self.callbacks.on_update(self)
        if _due(update, options.eval_every) or (done and options.eval_every):
            self._evaluate()
        if self.out_of_patience and not done:
            done = True
            if not log_now:
                self._log(float(self._over_ranks(window.loss)), float(norm), window)
        if self.stopping or _due(update, options.save_every) or (done and options.save_every):
            self._save(window)
        if self.stopping and not done:
            raise Interrupted

    def _step(self, plan: EpochPlan, k: int, update: int) -> tuple[Tensor, Tensor]:
        """One update; its summed loss on this rank and its gradient norm, both still on the device."""
        total = torch.zeros((), dtype=torch.float64, device=self.forward.device)
        divisor: float | Tensor = max(int(plan.supervised[k]), 1)
        if self.optimizer.scale is not None:
            divisor = divisor / self.optimizer.scale.value
        for row in self._rows(plan, k):
            if row is None:
                self.forward.idle(training=True)
                continue
            total += self._run_row(row, divisor)
        # A sum, not a mean: each rank's loss is divided by the tokens of all ranks already.
        with self.waits.measured():
            self.ranks.all_reduce(self.adapter.gradient)
        norm = self.optimizer.step(self.schedule.lr(update))
        self._finite.note(update, total, norm, self.adapter.weights)
        return total, norm

    def rows(self, plan: EpochPlan, k: int) -> Iterator[Row]:
        """This rank's rows of update ``k`` of a plan; rows that only even out the ranks are empty and left out."""
        return (row for row in self._rows(plan, k) if row is not None)

    def _rows(self, plan: EpochPlan, k: int) -> Iterator[Row | None]:
        """The same with the empty ones, which every rank has to take part in if they share the base."""
        first, last = int(plan.update_offsets[k]), int(plan.update_offsets[k + 1])
        for i in range(first, last, self.ranks.world):
            own = i + self.ranks.rank
            yield self.batches.of(plan, own) if own < last else None

    def _update_of(self, update: int) -> tuple[EpochPlan, int]:
        epoch, k = divmod(update - 1, self.updates_per_epoch)
        if epoch != self._planned_epoch:
            self._plan, self._planned_epoch = self._plan_of_epoch(epoch), epoch
        return self._plan, k

    def _log(self, loss_sum: float, norm: float, window: Window) -> None:
        """Add an entry to the log, and begin a new window."""
        progress = self.progress
        loss = loss_sum / max(progress.window_tokens, 1)
        if not math.isfinite(loss):
            self._fail(progress.update)
        seconds = max(window.seconds, 1e-9)
        entry: Log = {
            "step": progress.update,
            "epoch": self._epoch(),
            "loss": loss,
            "learning_rate": self.schedule.lr(progress.update),
            "grad_norm": norm,
            "samples_per_second": window.samples / seconds,
            "tokens_per_second": window.tokens / seconds,
            "supervised_tokens_per_second": progress.window_tokens / seconds,
        }
        progress.log_history.append(entry)
        self.waits.share(window.seconds)
        window.clear()
        progress.window_tokens = 0
        if self.ranks.first and (warning := self._divergence.look(progress.log_history)):
            log.warning("%s", warning)
        self.callbacks.on_log(self, entry)

    def _evaluate(self) -> None:
        result = self.callbacks.evaluate(self)
        if result is None:
            return
        if self.ranks.first and not math.isfinite(result["eval_loss"]):
            log.warning(
                "the evaluation loss is not finite at update %d (weights and training loss are): this evaluation counts as "
                "worse than any other",
                self.progress.update,
            )
        entry: Log = {"step": self.progress.update, "epoch": self._epoch(), **result}
        self.progress.log_history.append(entry)
        self.callbacks.on_log(self, entry)

    def _save(self, window: Window) -> None:
        """Write a checkpoint. A full disk costs this one checkpoint, not the run; but a run that stops here needs it.

        Raises:
            StorageError: the run was asked to stop, and the checkpoint to resume from cannot be written.
        """
        self._raise_if_failed()
        total = self._over_ranks(window.loss)
        self.progress.window_loss = float(total)
        window.loss = total if self.ranks.first else torch.zeros_like(total)
        try:
            self.callbacks.save(self)
        except StorageError as error:
            if self.stopping:
                raise
            log.warning(
                "no checkpoint at update %d: %s; training continues (%s)", self.progress.update, error, error.hint
            )

    def _epoch(self) -> float:
        return round(self.progress.update / self.updates_per_epoch, 4)

    def _over_ranks(self, value: Tensor) -> Tensor:
        if self.ranks.world > 1:
            value = value.clone()
            self.ranks.all_reduce(value)
        return value

    def _agreed(self, stop: bool) -> bool:
        """Whether any rank was asked to stop: all of them have to stop after the same update."""
        if self.ranks.world == 1:
            return stop
        return bool(self._over_ranks(torch.tensor(int(stop), device=self.forward.device)))

    def _raise_if_failed(self) -> None:
        gradient, weights = self._finite.read()
        if weights and (not gradient or weights < gradient):
            sound = weights - 1 > self._started_at
            raise weights_not_finite(weights, self.schedule.lr(weights), checkpoints_before=sound)
        if gradient:
            self._fail(gradient)
        scale = self.optimizer.scale
        # A run that is shorter than the patience must not end as if it had trained anything.
        if scale is not None and (left_out := int(scale.left_out)) >= min(HOPELESS, self.schedule.updates):
            raise overflowed(left_out, self.progress.update, float(scale.value))

    def _fail(self, update: int) -> NoReturn:
        plan, k = self._update_of(update)
        raise step_not_finite(update, self.batches.dataset, self.batches.indices[update_samples(plan, k)].tolist())

    def _check_first_row(self) -> None:
        plan, k = self._update_of(1)
        row = max(self.rows(plan, k), key=lambda r: len(r.sample_ids), default=None)
        check_on_all_ranks(self.forward, self.batches.dataset, row, self.ranks)


def _due(update: int, every: int | None) -> bool:
    return every is not None and update % every == 0
