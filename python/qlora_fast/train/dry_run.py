"""A rehearsal: everything that a run does before its first update, a few of its rows timed, and nothing written.

What ``train --dry-run`` shows. The model is really loaded, the longest row really run; the time of the whole follows
from the rows that were timed, the memory from what the machine says.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qlora_fast.config import Config
from qlora_fast.data.batch import Row, packed_row, padded_row
from qlora_fast.data.plan import row_tokens
from qlora_fast.data.prepare import Progress as PrepareProgress
from qlora_fast.errors import ConfigError
from qlora_fast.model.memory_estimate import Method, estimate
from qlora_fast.model.shapes import shape_of
from qlora_fast.train import memory_usage
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.duration import Timed, epoch_seconds, fit
from qlora_fast.train.memory_probe import probe, run_row
from qlora_fast.train.schedule import interval
from qlora_fast.train.setup import Parts, make_parts

_TIMED = 6
_SECONDS = 60.0
"""No more rows are timed after this long."""


def rehearse(config: Config, progress: PrepareProgress | None = None) -> dict[str, Any]:
    """Plan, load, time a few rows: what will happen, how long it takes and what memory it needs.

    ``world_size`` devices are planned for; one is enough to rehearse on.

    Raises:
        QloraFastError: whatever would stop the run at its beginning, too little memory among it.
    """
    parts = make_parts(config, Ranks(), progress, config.world_size)
    plan = parts.plan_of_epoch(0)
    per_epoch = len(plan.supervised)
    schedule = parts.schedule(per_epoch)
    longest = parts.longest_row(epochs=-(-schedule.updates // per_epoch))
    recomputed = probe(config, parts.forward, parts.adapter, parts.data.train, longest)

    tokens = row_tokens(plan, parts.lengths, config)
    timed = [_time_row(parts, row) for row in _chosen_rows(parts, plan, tokens)]
    cost = fit(timed)
    step = _time_step(parts)
    training = epoch_seconds(cost, tokens, plan.update_offsets, config.world_size) / per_epoch + step
    evaluations, evaluation = _evaluations(parts, schedule.updates, per_epoch, longest)
    seconds = schedule.updates * training + evaluations * evaluation
    keys = sorted({1, schedule.warmup + 1, *range(10, 31, 10), schedule.updates // 2, schedule.updates})
    return {
        "updates": schedule.updates,
        "updates_per_epoch": per_epoch,
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
        "longest_row": int(longest.input_ids.size),
        "device": str(parts.device),
        "dtype": str(parts.dtype).removeprefix("torch."),
        "memory": _memory(parts, longest, recomputed),
    }


def _chosen_rows(parts: Parts, plan: Any, tokens: NDArray[np.int64]) -> list[Row]:
    """Rows from the shortest to the longest of the first epoch, evenly by rank."""
    order = np.argsort(tokens, kind="stable")
    order = order[tokens[order] > 0]
    places = np.unique(np.linspace(0, len(order) - 1, _TIMED).round().astype(int))
    make = packed_row if parts.packed else padded_row
    return [
        make(parts.data.train, parts.data.train_ids[plan.sample_ids[plan.row_offsets[r] : plan.row_offsets[r + 1]]])
        for r in order[places]
    ]


def _time_row(parts: Parts, row: Row) -> Timed:
    """The faster of two runs, or the only one if it takes long: the first may still be finding its kernels."""
    best = float("inf")
    for _ in range(2):
        started = _now(parts.device)
        run_row(parts.forward, parts.adapter, row)
        best = min(best, _now(parts.device) - started)
        if best > _SECONDS / _TIMED / 2:
            break
    return Timed(int(row.input_ids.size), best)


def _time_step(parts: Parts) -> float:
    """Clipping and AdamW, on a gradient of zeros at a rate of zero: it changes no weight."""
    started = _now(parts.device)
    parts.optimizer.step(0.0)
    return _now(parts.device) - started


def _evaluations(parts: Parts, updates: int, per_epoch: int, longest: Row) -> tuple[int, float]:
    """How many evaluations the run makes, and the seconds of one."""
    config, ids, data = parts.config, parts.data.eval_ids, parts.data.evals
    every = {"epoch": per_epoch, "steps": interval(config.eval_steps, updates)}.get(config.eval_strategy)
    if every is None or data is None or not len(ids):
        return 0, 0.0
    with parts.forward.scoring():
        started = _now(parts.device)
        parts.forward.token_losses(longest)
        a_token = (_now(parts.device) - started) / longest.input_ids.size
    return -(-updates // every), a_token * float(data.lengths[ids].sum()) / config.world_size


def _memory(parts: Parts, longest: Row, recomputed: bool) -> dict[str, Any]:
    """What is there, measured; the activations counted; and what the shape alone foretold."""
    measured = memory_usage.parts(parts.model, parts.adapter, parts.optimizer)
    kept = memory_usage.activations(parts.forward, longest)
    told = None
    try:
        shape = shape_of(parts.config.model_name_or_path)
        if shape is not None:
            method = Method.of(parts.config, int(longest.input_ids.size), len(longest.targets), parts.dtype.itemsize)
            told = estimate(shape, method if not recomputed else method.recomputing()).total
    except ConfigError:
        pass
    free = memory_usage.available(parts.device)
    return {**measured, "activations": kept, "peak": memory_usage.peak(parts.device), "free": free, "foretold": told}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
