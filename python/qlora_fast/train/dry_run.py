"""What ``train --dry-run`` shows: everything that a run does before its first update, a few rows timed, nothing written.

The model is loaded and the longest row run; the time of the whole run is estimated from the rows that were timed, the memory
is measured.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qlora_fast.config import Config
from qlora_fast.data.batch import Row
from qlora_fast.data.plan import EpochPlan, row_tokens
from qlora_fast.data.prepare import Progress as PrepareProgress
from qlora_fast.errors import ConfigError
from qlora_fast.model.memory_estimate import Method, estimate
from qlora_fast.model.patch import report_of
from qlora_fast.model.shapes import shape_of
from qlora_fast.train import memory_usage
from qlora_fast.train.compiling import compile_layers
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.duration import Timed, epoch_seconds, fit
from qlora_fast.train.memory_probe import run_row
from qlora_fast.train.setup import Machine, Setup, set_up

_TIMED = 6
_SECONDS = 60.0
"""No more rows are timed after this long."""


def rehearse(config: Config, progress: PrepareProgress | None = None) -> dict[str, Any]:
    """Plan, load, time a few rows: what will happen, how long it takes and what memory it needs.

    ``world_size`` devices are planned for; one is enough to rehearse on.

    Raises:
        QloraFastError: whatever would stop the run at its beginning, too little memory among it.
    """
    ranks = Ranks()
    setup = set_up(config, Machine.of(config, ranks), ranks, progress, world=config.world_size)
    timetable, schedule = setup.timetable, setup.timetable.rate
    recomputed = setup.probe(ranks)
    compilation = compile_layers(setup, ranks)

    plan = setup.data.plan_of_epoch(0)
    tokens = row_tokens(plan, setup.data.lengths, setup.batches.packed)
    timed = [_time_row(setup, row) for row in _chosen_rows(setup, plan, tokens)]
    cost = fit(timed)
    step = _time_step(setup)
    training = epoch_seconds(cost, tokens, plan.update_offsets, config.world_size) / timetable.per_epoch + step
    evaluations, evaluation = _evaluations(setup)
    seconds = schedule.updates * training + evaluations * evaluation
    keys = sorted({1, schedule.warmup + 1, *range(10, 31, 10), schedule.updates // 2, schedule.updates})
    return {
        "updates": schedule.updates,
        "updates_per_epoch": timetable.per_epoch,
        "warmup_updates": schedule.warmup,
        "world_size": config.world_size,
        "lr": {str(k): schedule.lr(k) for k in keys if 1 <= k <= schedule.updates},
        "tokens_per_update": float(plan.tokens.mean()),
        "rows_timed": [{"tokens": t.tokens, "seconds": t.seconds} for t in timed],
        "tokens_per_second": float(sum(t.tokens for t in timed) / sum(t.seconds for t in timed)),
        "seconds_per_update": training,
        "evaluations": evaluations,
        "seconds": [seconds / (1 + cost.spread), seconds * (1 + cost.spread)],
        "gradient_checkpointing": recomputed,
        "longest_row": int(setup.longest.input_ids.size),
        "max_tokens_per_row": asdict(setup.row_budget),
        "torch_compile": compilation.described(),
        "device": str(setup.machine.device),
        "dtype": str(setup.machine.dtype).removeprefix("torch."),
        "memory": _memory(setup, recomputed),
    }


def _chosen_rows(setup: Setup, plan: EpochPlan, tokens: NDArray[np.int64]) -> list[Row]:
    """Rows from the shortest to the longest of the first epoch, evenly by rank."""
    order = np.argsort(tokens, kind="stable")
    order = order[tokens[order] > 0]
    places = np.unique(np.linspace(0, len(order) - 1, _TIMED).round().astype(int))
    return [row for i in order[places].tolist() if (row := setup.batches.of(plan, i)) is not None]


def _time_row(setup: Setup, row: Row) -> Timed:
    """The faster of two runs, or the only one if it takes long: the first may still be choosing its kernels."""
    best, device = float("inf"), setup.machine.device
    for _ in range(2):
        started = _now(device)
        run_row(setup.forward, setup.adapter, row)
        best = min(best, _now(device) - started)
        if best > _SECONDS / _TIMED / 2:
            break
    return Timed(int(row.input_ids.size), best)


def _time_step(setup: Setup) -> float:
    """Clipping and AdamW, on a gradient of zeros at a rate of zero: it changes no weight."""
    started = _now(setup.machine.device)
    setup.optimizer.step(0.0)
    return _now(setup.machine.device) - started


def _evaluations(setup: Setup) -> tuple[int, float]:
    """How many evaluations the run makes, and the seconds of one."""
    data, ids, row = setup.data.evals, setup.data.eval_ids, setup.longest
    if setup.timetable.eval_every is None or data is None or not len(ids):
        return 0, 0.0
    with setup.forward.scoring():
        started = _now(setup.machine.device)
        setup.forward.token_losses(row)
        per_token = (_now(setup.machine.device) - started) / row.input_ids.size
    return setup.timetable.evaluations, per_token * float(data.lengths[ids].sum()) / setup.config.world_size


def _memory(setup: Setup, recomputed: bool) -> dict[str, Any]:
    """What is allocated, measured; the activations, counted; and what the model's shape alone lets expect."""
    measured = memory_usage.parts(setup.model, setup.adapter, setup.optimizer)
    device, longest = setup.machine.device, setup.longest
    kept = memory_usage.activations(setup.forward, longest)
    estimated = None
    try:
        shape = shape_of(setup.config.model_name_or_path)
        if shape is not None:
            itemsize = setup.machine.dtype.itemsize
            # On a CPU the estimate is of the same run on a GPU.
            kernels = report_of(setup.model).kernels if device.type == "cuda" else None
            method = Method.of(setup.config, int(longest.input_ids.size), len(longest.targets), itemsize, kernels)
            estimated = estimate(shape, method if not recomputed else method.recomputing()).total
    except ConfigError:
        pass
    free = memory_usage.available(device)
    return {**measured, "activations": kept, "peak": memory_usage.peak(device), "free": free, "foretold": estimated}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
