"""``best/``: the adapter of the best evaluation so far. It is that one, or the run says that it is gone."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from qlora_fast.config import Config
from qlora_fast.errors import StorageError
from qlora_fast.hub import manifest
from qlora_fast.runs import layout
from qlora_fast.train import checkpoint
from qlora_fast.train.adapter_folder import AdapterFolder
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.progress import Log, Progress

log = logging.getLogger(__name__)


def is_better(config: Config, value: float, best: float | None) -> bool:
    """Whether an evaluation beats the best one; a value that is not finite never does, and always loses."""
    if not math.isfinite(value):
        return False
    if best is None or not math.isfinite(best):
        return True
    return value > best if config.metric_for_best_model == "eval_accuracy" else value < best


def keep_best(
    config: Config, progress: Progress, result: Log, folder: AdapterFolder, output: Path, ranks: Ranks
) -> bool:
    """Note whether this evaluation is the best so far, and keep its adapter if it is. All ranks call it.

    Where ``best/`` cannot be written, the best evaluation stays the one whose adapter is there.
    """
    value = result[config.metric_for_best_model]
    progress.evaluations_since_best += 1
    if not is_better(config, value, progress.best_metric):
        return False
    progress.evaluations_since_best = 0
    if not ranks.from_first(lambda: _written(folder, output / layout.BEST, progress.update)):
        return False
    progress.best_metric, progress.best_update = value, progress.update
    return True


def restore_best(output: Path, progress: Progress, folder: AdapterFolder) -> bool:
    """At resume and at the end: see that ``best/`` is the adapter of the best evaluation.

    A missing, damaged or other one is written again from the checkpoint of that update. Where there is none, ``best/`` is
    moved aside, and the run says so. One that is of a later update than the run has reached stays: it is made again, and
    compared again at the end.

    Returns:
        Whether ``best/`` is what its name says.
    """
    best, update = output / layout.BEST, progress.best_update
    problem = _problem(best, update)
    if problem is None:
        return update is not None
    damaged = best.exists() and manifest.damage(best) is not None
    there = manifest.about(best).get("update") if not damaged else None
    source = None if update is None else output / layout.checkpoint(update)
    if update is not None and source is not None and source.is_dir() and checkpoint.damage(source) is None:
        log.warning("`%s` %s: restored from `%s`", best, problem, source)
        folder.write(best, update, source / layout.ADAPTER_WEIGHTS)
        return True
    if isinstance(there, int) and there > progress.update:
        return False
    if best.exists():
        aside = checkpoint.set_aside(best, "damaged" if damaged else "aside")
        log.warning("`%s` %s; it was moved to `%s`", best, problem, aside.name)
    if update is not None:
        log.warning(
            "the adapter of the best evaluation (update %d) is gone: `%s` %s, and there is no checkpoint of that update",
            update, best, problem,
        )  # fmt: skip
    return False


def _problem(best: Path, update: int | None) -> str | None:
    """Why ``best/`` is not the adapter of an update, in words; None if it is, or if there is none and none is wanted."""
    if not best.exists():
        return None if update is None else "is missing"
    damaged = manifest.damage(best, (layout.ADAPTER_CONFIG, layout.ADAPTER_WEIGHTS))
    if damaged is not None:
        return f"is damaged ({damaged})"
    own = manifest.about(best).get("update")
    return None if own == update else f"is of update {own}, the best evaluation is that of {update or 'none'}"


def _written(folder: AdapterFolder, best: Path, update: int) -> str:
    try:
        folder.write(best, update)
    except StorageError as error:
        log.warning("`%s` stays as it was: the better adapter of update %d is not kept: %s", best, update, error)
        return ""
    return "written"
