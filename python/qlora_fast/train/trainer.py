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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qlora_fast._core import EpochPlan
from qlora_fast.data.batch import Row, packed_row, padded_row
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.errors import Interrupted, TrainingError
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.train.distributed import all_reduce
from qlora_fast.train.forward import Forward
from qlora_fast.train.loss_scale import HOPELESS
from qlora_fast.train.optimizer import AdamW
from qlora_fast.train.progress import Log, Progress
from qlora_fast.train.schedule import Schedule
from qlora_fast.train.signals import StopRequest

log = logging.getLogger(__name__)


ISOLATION_BOUND = {torch.float32: 1e-4}
"""How far the losses of packed tokens may be from those of the samples alone, by dtype; see :func:`check_isolation`."""
_ISOLATION_BOUND_16 = 5e-2
ISOLATION_SAMPLES = 8
"""Samples of a row that are run alone; a full row has a hundred, which would take a GPU seconds of launches."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """When something happens; ``None`` is never. Updates count from 1."""

    logging_steps: int
    eval_every: int | None
    save_every: int | None
    packed: bool
    patience: int | None = None
    """Evaluations without a better one after which the run ends."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the run does beside training. Each is called with the trainer, on every rank.

    ``evaluate`` also says in ``progress`` which evaluation is the best.
    """

    on_log: Callable[[Trainer, Log], None]
    evaluate: Callable[[Trainer], Log | None]
    save: Callable[[Trainer], None]
    on_update: Callable[[Trainer], None] = lambda _: None


@dataclass(slots=True)
class _Window:
    """What has happened since the last log step. The loss stays on the device."""

    loss: Tensor
    tokens: int = 0
    samples: int = 0
    seconds: float = 0.0
    updates: int = 0


class Trainer:
    """One run over one dataset."""

    def __init__(
        self,
        forward: Forward,
        adapter: Adapter,
        optimizer: AdamW,
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
        self.adapter = adapter
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
        self._on_host = forward.device.type == "cpu"
        # The first update whose gradient was not finite; 0 while there is none.
        self._failed = torch.zeros((), dtype=torch.int64, device=forward.device)
        self.stopping = False
        """Whether a signal was heard: what is saved now is what the run goes on from."""

    def run(self) -> Progress:
        """Train to the end of the schedule, or to the first signal.

        Raises:
            TrainingError: the self-check failed, a loss or gradient was not finite, or fp16 overflowed without end.
            Interrupted: after a checkpoint.
        """
        progress = self.progress
        if progress.update == 0 and self.options.packed:
            self._check_first_row()
        carried = progress.window_loss if self.rank == 0 else 0.0
        window = _Window(torch.tensor(carried, dtype=torch.float64, device=self.forward.device))
        with StopRequest(tell=self.rank == 0) as stop:
            while progress.update < self.schedule.updates and not self.out_of_patience:
                started = time.perf_counter()
                update = progress.update + 1
                plan, k = self._update_of(update)
                loss, norm = self._step(plan, k, update)
                window.loss += loss
                window.updates += 1
                window.tokens += int(plan.tokens[k])
                window.samples += _samples(plan, k)
                progress.update = update
                progress.window_tokens += int(plan.supervised[k])
                done = update == self.schedule.updates
                log_now = done or _due(update, self.options.logging_steps)
                # Looking at the failure flag waits for the device: free on a CPU, rare on a GPU.
                if self._on_host or log_now:
                    self._raise_if_failed()
                stopping = self.stopping = self._agreed(stop.requested) if self._on_host or log_now else False
                loss_sum = self._over_ranks(window.loss) if log_now else None
                window.seconds += time.perf_counter() - started
                progress.seconds += time.perf_counter() - started
                if loss_sum is not None:
                    self._log(float(loss_sum), float(norm), window)
                    window = _Window(torch.zeros_like(window.loss))
                    progress.window_tokens = 0
                self.hooks.on_update(self)
                if _due(update, self.options.eval_every) or (done and self.options.eval_every):
                    self._evaluate()
                if self.out_of_patience and not done:
                    done = True
                    if not log_now:
                        self._log(float(self._over_ranks(window.loss)), float(norm), window)
                        window = _Window(torch.zeros_like(window.loss))
                        progress.window_tokens = 0
                if stopping or _due(update, self.options.save_every) or (done and self.options.save_every):
                    self._save(window, must=stopping or done)
                if stopping and not done:
                    raise Interrupted
        return progress

    @property
    def out_of_patience(self) -> bool:
        """Whether early stopping ends the run here; a resumed run knows it from its checkpoint."""
        patience = self.options.patience
        return patience is not None and self.progress.evaluations_since_best >= patience

    def _step(self, plan: EpochPlan, k: int, update: int) -> tuple[Tensor, Tensor]:
        """One update; its summed loss on this rank and its gradient norm, both still on the device."""
        total = torch.zeros((), dtype=torch.float64, device=self.forward.device)
        divisor: float | Tensor = max(int(plan.supervised[k]), 1)
        if self.optimizer.scale is not None:
            divisor = divisor / self.optimizer.scale.value
        for row in self.rows(plan, k):
            loss = self.forward.loss_sum(row)
            (loss / divisor).backward()  # type: ignore[no-untyped-call]
            self.adapter.collect()
            total += loss.detach()
        if self.world_size > 1:
            # A sum, not a mean: each rank's loss is divided by the tokens of all ranks already.
            all_reduce(self.adapter.gradient)
        norm = self.optimizer.step(self.schedule.lr(update))
        broken = ~(norm.isfinite() & total.isfinite())
        self._failed = torch.where((self._failed == 0) & broken, update, self._failed)
        return total, norm

    def rows(self, plan: EpochPlan, k: int) -> Iterator[Row]:
        """This rank's rows of update ``k`` of a plan; rows that only even out the ranks are empty and left out."""
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

    def _log(self, loss_sum: float, norm: float, window: _Window) -> None:
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
        self.hooks.on_log(self, entry)

    def _evaluate(self) -> None:
        result = self.hooks.evaluate(self)
        if result is not None:
            entry: Log = {"step": self.progress.update, "epoch": self._epoch(), **result}
            self.progress.log_history.append(entry)
            self.hooks.on_log(self, entry)

    def _save(self, window: _Window, *, must: bool) -> None:
        """Write a checkpoint. A full disk in the middle of a run costs this one checkpoint, not the run."""
        self._raise_if_failed()
        total = self._over_ranks(window.loss)
        self.progress.window_loss = float(total)
        window.loss = total if self.rank == 0 else torch.zeros_like(total)
        try:
            self.hooks.save(self)
        except OSError as error:
            if must:
                raise
            log.warning("no checkpoint at update %d: %s; training goes on", self.progress.update, error)

    def _epoch(self) -> float:
        return round(self.progress.update / self.updates_per_epoch, 4)

    def _over_ranks(self, value: Tensor) -> Tensor:
        if self.world_size > 1:
            value = value.clone()
            all_reduce(value)
        return value

    def _agreed(self, stop: bool) -> bool:
        """Whether any rank was asked to stop: all of them have to stop behind the same update."""
        if self.world_size == 1:
            return stop
        return bool(self._over_ranks(torch.tensor(int(stop), device=self.forward.device)))

    def _raise_if_failed(self) -> None:
        if failed := int(self._failed):
            self._fail(failed)
        scale = self.optimizer.scale
        # A run that is shorter than the patience must not end as if it had learned something.
        if scale is not None and (left_out := int(scale.left_out)) >= min(HOPELESS, self.schedule.updates):
            raise TrainingError(
                f"the gradient overflowed fp16 in {left_out} updates in a row, up to update {self.progress.update}; none of "
                f"them was applied, and a smaller loss scale (now {float(scale.value):g}) no longer helps",
                hint="set bf16: true, or dtype: fp32 on a GPU without bf16; if it began in the middle of the run, lower "
                "learning_rate: the weights have grown too large",
            )

    def _fail(self, update: int) -> None:
        plan, k = self._update_of(update)
        first, last = plan.row_offsets[plan.update_offsets[k]], plan.row_offsets[plan.update_offsets[k + 1]]
        ids = self.indices[plan.sample_ids[first:last]].tolist()
        where = ", ".join(str(self.dataset.origin(i)) for i in ids[:8]) + (", …" if len(ids) > 8 else "")
        raise TrainingError(
            f"the loss or its gradient is not finite in update {update} (samples {ids[:8]}); it was not applied",
            hint=f"lower learning_rate, or look at its data: {where}",
        )

    def _check_first_row(self) -> None:
        plan, k = self._update_of(1)
        row = max(self.rows(plan, k), key=lambda r: len(r.sample_ids), default=None)
        if row is not None:
            check_isolation(self.forward, self.dataset, row)


def check_isolation(forward: Forward, dataset: PreparedDataset, row: Row) -> float:
    """Compare a packed row with its samples run alone through the model's own code.

    Packing is safe, and the loss is the model's, exactly when they agree; a model that mixes samples in a way
    nobody thought of shows here. Of a row of many samples, the first, the last and some between are compared: a model
    that mixes them does so with all but the first.

    Returns:
        mean |difference| ÷ mean loss, over the supervised tokens.

    Raises:
        TrainingError: the two differ by more than rounding.
    """
    with forward.scoring():
        sizes = [int(dataset.supervised[i]) for i in row.sample_ids.tolist()]
        pieces = torch.split(forward.token_losses(row)[0], sizes)
        chosen = _spread(np.flatnonzero(sizes), ISOLATION_SAMPLES)
        if not chosen:
            return 0.0
        together = torch.cat([pieces[i] for i in chosen])
        alone = torch.cat([forward.reference_losses(packed_row(dataset, [int(row.sample_ids[i])])) for i in chosen])
    error = float((together - alone).abs().mean() / alone.abs().mean().clamp_min(1e-6))
    bound = ISOLATION_BOUND.get(forward.dtype, _ISOLATION_BOUND_16)
    if not error <= bound:
        raise TrainingError(
            f"packed samples influence each other in this model: their losses differ by {error:.1e} (bound {bound:.0e})",
            hint="set `packing: none` or `packing: bucketed`, and please report the model",
        )
    return error


def _spread(places: NDArray[np.int64], most: int) -> list[int]:
    """At most ``most`` of ``places``, evenly, with both ends."""
    evenly = np.linspace(0, max(len(places) - 1, 0), min(len(places), most)).round().astype(int)
    return [int(place) for place in places[np.unique(evenly)]]


def _samples(plan: EpochPlan, k: int) -> int:
    first, last = plan.update_offsets[k], plan.update_offsets[k + 1]
    return int(plan.row_offsets[last] - plan.row_offsets[first])


def _due(update: int, every: int | None) -> bool:
    return every is not None and update % every == 0
