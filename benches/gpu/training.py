"""Short training runs whose speed never stands without their loss and gradient norm."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benches.gpu.product import (
    AdamW,
    AdamWOptions,
    Adapter,
    Batches,
    EpochPlan,
    Forward,
    Graphs,
    Hooks,
    Log,
    PlanOptions,
    PreparedDataset,
    Schedule,
    Trainer,
    TrainOptions,
    epoch_plan,
)

MakePass = Callable[[Forward, Adapter, PreparedDataset, EpochPlan], Graphs]
LEARNING_RATE = 1e-4
VOID_BEYOND = 1e-2
"""Relative difference of the loss or the gradient norm beyond which a speed is no result."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What the timed updates of a run showed; the ones before them loaded kernels and filled the allocator."""

    tokens_per_second: float
    peak_gib: float
    reserved_gib: float
    loss: float
    grad_norm: float

    def row(self, name: str, reference: Speed | None) -> dict[str, Any]:
        """Columns of the table; a run that learns something else than the reference has no speed."""
        off = None if reference is None else max(
            abs(self.loss - reference.loss) / max(abs(reference.loss), 1e-9),
            abs(self.grad_norm - reference.grad_norm) / max(abs(reference.grad_norm), 1e-9),
        )  # fmt: skip
        void = off is not None and not off <= VOID_BEYOND
        return {
            "run": name,
            "real tokens/s": "void" if void else round(self.tokens_per_second),
            "× reference": None
            if void or reference is None
            else self.tokens_per_second / max(reference.tokens_per_second, 1e-9),
            "peak GiB": round(self.peak_gib, 2),
            "reserved GiB": round(self.reserved_gib, 2),
            "loss": round(self.loss, 5),
            "grad norm": round(self.grad_norm, 5),
            "off by": None if off is None else f"{off:.1e}",
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """Which samples meet in an update, and how many updates are trained before and while the clock runs."""

    packing: str = "exact"
    samples: int = 80
    batch: int = 4
    budget: int = 2048
    warm_up: int = 3
    timed: int = 9

    @property
    def updates(self) -> int:
        return self.warm_up + self.timed

    def options(self) -> PlanOptions:
        return PlanOptions(self.packing, self.samples, self.batch, self.budget, 1, 0)


def train(
    model: nn.Module,
    dataset: PreparedDataset,
    plan: Plan,
    around: Callable[[Forward], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    make_pass: MakePass | None = None,
    said: Callable[[str], None] = lambda _: None,
) -> Speed:
    """Train ``plan.updates`` updates through the package's own trainer.

    Args:
        model: a model with a LoRA adapter, on a GPU. around: what is switched on while it trains.
        make_pass: how rows are run; None: every operation is launched by Python. said: told what became of it.

    Raises:
        QloraFastError: a loss is not finite, or packed samples are not isolated.
    """
    device = torch.device("cuda", 0)
    torch.cuda.reset_peak_memory_stats()
    adapter = Adapter(model)
    forward = Forward(model, device)
    log: list[Log] = []

    def plan_of_epoch(epoch: int) -> EpochPlan:
        return epoch_plan(dataset.lengths, dataset.supervised, plan.options(), epoch)

    row_pass = None if make_pass is None else make_pass(forward, adapter, dataset, plan_of_epoch(0))
    trainer = Trainer(
        forward,
        adapter,
        AdamW(adapter, AdamWOptions(max_grad_norm=1.0)),
        Schedule("constant", LEARNING_RATE, plan.updates, 0),
        Batches(dataset, np.arange(len(dataset)), plan.packing in ("exact", "dense")),
        plan_of_epoch,
        # One window of warm-up, then one that is timed; both end with a wait for the device.
        TrainOptions(plan.warm_up, None, None),
        Hooks(on_log=lambda _, entry: log.append(entry), evaluate=lambda _: None, save=lambda _: None),
        row_pass=row_pass,
    )
    with around(forward):
        trainer.run()
    if row_pass is not None:
        said(str(row_pass.described()))
    timed = log[1:]
    seconds = [1 / max(entry["tokens_per_second"], 1e-9) for entry in timed]
    return Speed(
        1 / float(np.mean(seconds)),
        torch.cuda.max_memory_allocated() / 2**30,
        torch.cuda.max_memory_reserved() / 2**30,
        float(log[-1]["loss"]),
        float(log[-1]["grad_norm"]),
    )
