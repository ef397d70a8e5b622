"""A training run of seconds, from finished parts; also a program, so that it can be killed.

python tests/tiny_run.py PREPARED OUTPUT
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import tiny
from qlora_fast.data.batch import Batches
from qlora_fast.data.dataset import PreparedDataset, open_prepared
from qlora_fast.data.plan import PlanOptions, epoch_plan
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.train import checkpoint
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.evaluate import EvalOptions, evaluate
from qlora_fast.train.forward import Forward
from qlora_fast.train.optimizer import AdamW, AdamWOptions
from qlora_fast.train.progress import Log
from qlora_fast.train.schedule import Schedule
from qlora_fast.train.trainer import Hooks, Trainer, TrainOptions

CPU = torch.device("cpu")


def tiny_run(
    dataset: PreparedDataset,
    folder: Path | None = None,
    *,
    model: nn.Module | None = None,
    packing: str = "exact",
    samples_per_update: int = 8,
    row: int = 96,
    updates: int = 12,
    lr: float = 5e-3,
    dropout: float = 0.0,
    logging_steps: int = 1,
    save_every: int | None = None,
    eval_every: int | None = None,
    save_total_limit: int | None = None,
    identity: dict[str, Any] | None = None,
    ranks: Ranks | None = None,
    on_update: Callable[[Trainer], None] = lambda _: None,
    max_grad_norm: float = 1.0,
    optimizer: dict[str, Any] | None = None,
    noise: float = 0.0,
    device: torch.device = CPU,
) -> Trainer:
    """A trainer over ``dataset``, resumed from the newest complete checkpoint in ``folder`` if there is one."""
    model = tiny.adapted(tiny.qwen3(), dropout=dropout, warm=False) if model is None else model
    model = model.to(device)
    adapter = Adapter(model)
    adam = AdamW(adapter, AdamWOptions(max_grad_norm=max_grad_norm, **(optimizer or {})))
    forward = Forward(model, device, noise=noise)
    ranks = ranks or Ranks()
    options = PlanOptions(packing, samples_per_update, 2, row, ranks.world, 0)
    identity = identity or {"data": dataset.fingerprint}
    torch.manual_seed(ranks.rank)
    newest = checkpoint.newest_whole(folder) if folder is not None and folder.is_dir() else None
    progress = None
    if newest is not None:
        progress = checkpoint.load_checkpoint(newest, adapter, adam, identity, ranks=ranks)

    def save(trainer: Trainer) -> None:
        assert folder is not None
        checkpoint.save_checkpoint(folder, model, adapter, adam, trainer.progress, identity, ranks=ranks)
        checkpoint.rotate(folder, save_total_limit, trainer.progress.best_update)

    def evaluation(trainer: Trainer) -> Log:
        few = np.arange(min(8, len(dataset)))
        return evaluate(forward, dataset, few, EvalOptions(4, row, options.packed, True), ranks=ranks)

    return Trainer(
        forward,
        adapter,
        adam,
        Schedule("cosine", lr, updates, 2),
        Batches(dataset, np.arange(len(dataset)), options.packed),
        lambda epoch: epoch_plan(dataset.lengths, dataset.supervised, options, epoch),
        TrainOptions(logging_steps, eval_every, save_every),
        Hooks(lambda *_: None, evaluation, save, on_update),
        ranks=ranks,
        progress=progress,
    )


def weights_digest(trainer: Trainer) -> str:
    # Not of the flat vector: bitsandbytes' 8 bits have no exact zero on a CPU, so what lies between matrices may move.
    values = [value.numpy().tobytes() for value in trainer.adapter.tensors().values()]
    return hashlib.sha256(b"".join(values)).hexdigest()


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.progress.log_history if "loss" in entry]


KILLED = {"updates": 30, "dropout": 0.1, "save_every": 4, "row": 48, "logging_steps": 3}
"""The run that is killed: dropout, several rows per step, log steps that do not meet the checkpoints."""


if __name__ == "__main__":
    prepared, output = map(Path, sys.argv[1:])
    output.mkdir(exist_ok=True)
    # Slow enough that a kill lands somewhere in the middle.
    trainer = tiny_run(open_prepared(prepared), output, on_update=lambda _: time.sleep(0.05), **KILLED)  # type: ignore[arg-type]
    print("started", flush=True)
    trainer.run()
    print(weights_digest(trainer), flush=True)
