"""The folder of a run: how it is claimed, and what is in it at the end."""

from __future__ import annotations

import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from qlora_fast import atomic_io
from qlora_fast.config import Config
from qlora_fast.errors import ArtifactError, StorageError
from qlora_fast.plots import plot_losses
from qlora_fast.runs import layout
from qlora_fast.train import checkpoint
from qlora_fast.train.progress import Progress
from qlora_fast.train.run_status import PREPARING
from qlora_fast.train.trainer import Trainer

log = logging.getLogger(__name__)


def check_output(config: Config) -> None:
    """Refuse a folder that the run may not have, before anything is done for it. Nothing in it is touched.

    Raises:
        ArtifactError: the folder holds a run, or something else.
    """
    output = Path(config.output_dir)
    if output.parent.is_dir():
        atomic_io.sweep(output.parent)
    if output.exists() and not output.is_dir():
        raise ArtifactError(f"`{output}` is a file", hint="give another output_dir")
    if _is_free(output):
        return
    if not layout.is_run(output):
        raise ArtifactError(
            f"`{output}` is not empty and not a run of qlora-fast; nothing in it was touched",
            hint="give another output_dir",
        )
    if not config.overwrite_output_dir and not config.resume_from_checkpoint:
        raise ArtifactError(
            f"`{output}` holds a run already",
            hint="resume_from_checkpoint=true resumes it, overwrite_output_dir=true moves it aside, "
            "output_dir=… starts another",
        )


def claim_output(config: Config, *, own: bool = False) -> None:
    """Create the run's folder, or take it over as the config says; what is not ours is never touched.

    Args:
        own: whether what is in it is this very run, to be resumed: it is not moved aside.

    Its first file is run.json, so that a process that is killed at any moment leaves a folder that the next one takes. To be
    called when data and model are there: a run that cannot begin moves no earlier one aside.

    Raises:
        ArtifactError: the folder holds a run, or something else.
        StorageError: it cannot be written.
    """
    check_output(config)
    output = Path(config.output_dir)
    if config.overwrite_output_dir and layout.is_run(output) and not own:
        aside = checkpoint.unused(output.with_name(f"{output.name}.old-{time.strftime('%Y%m%d-%H%M%S')}"))
        output.rename(aside)
        log.info("the earlier run was moved to `%s`", aside)
    if output.is_dir():
        atomic_io.recover(output)
    if not layout.is_run(output):
        atomic_io.write_json(output / layout.RUN, {"ended": PREPARING})


def warn_of_little_space(
    output: Path, checkpoint_bytes: int, adapter_bytes: int, saves: int, limit: int | None
) -> None:
    """Compare what a run will write with what its disk has, before the first save.

    Args:
        checkpoint_bytes, adapter_bytes: of one checkpoint and of one adapter.
        saves: checkpoints that the run makes. limit: how many of them stay.
    """
    # A new checkpoint is complete before the oldest one is removed, and the best one stays beside the limit.
    kept = saves if limit is None else min(saves, limit + 2)
    needed = kept * checkpoint_bytes + 4 * adapter_bytes
    free = atomic_io.free_space(output)
    if free is not None and needed > free:
        log.warning(
            "`%s` has %s free, this run will write about %s (%d checkpoints of %s): set save_total_limit, or give an "
            "output_dir on another disk",
            output, atomic_io.size_text(free), atomic_io.size_text(needed), kept, atomic_io.size_text(checkpoint_bytes),
        )  # fmt: skip


def finish_output(config: Config, progress: Progress, results: dict[str, Any], *, best: bool) -> None:
    """Put the final adapter into the run's folder, with its results, its log and its picture.

    Args:
        best: whether the final adapter is ``best/``; otherwise it is ``last/``.

    Raises:
        StorageError: the adapter or its results cannot be written.
    """
    output = Path(config.output_dir)
    for file in sorted((output / (layout.BEST if best else layout.LAST)).iterdir()):
        with atomic_io.new_file(output / file.name) as made:
            shutil.copyfile(file, made)
    groups = {
        layout.TRAIN_RESULTS: {k: v for k, v in results.items() if not k.startswith("eval_") and k != "perplexity"},
        layout.EVAL_RESULTS: {
            k: v for k, v in results.items() if k.startswith("eval_") or k in ("perplexity", "epoch")
        },
        layout.ALL_RESULTS: results,
        layout.TRAINER_STATE: checkpoint.trainer_state(progress),
    }
    if "eval_loss" not in results:
        del groups[layout.EVAL_RESULTS]
    for name, content in groups.items():
        atomic_io.write_json(output / name, content)
    try:
        if config.plot_loss:
            plot_losses(progress.log_history, output, f"{config.model_name_or_path}, rank {config.lora_rank}")
        atomic_io.write_text(output / layout.MODEL_CARD, _model_card(config, results))
    except (OSError, StorageError) as error:
        log.warning("no picture of the losses, or no %s: %s", layout.MODEL_CARD, error)


def results_of(progress: Progress, samples: int, *, best: bool) -> dict[str, Any]:
    """What all_results.json says of the training.

    Args:
        best: whether the final adapter is the best one; the evaluation is then that of its update, else the last one.
    """
    losses = [(e["loss"], e["step"]) for e in progress.log_history if "loss" in e]
    # Each entry is the mean since the one before it, so it weighs as many updates as it covers.
    weights = np.diff([0.0, *(step for _, step in losses)])
    results: dict[str, Any] = {
        "epoch": progress.log_history[-1]["epoch"] if progress.log_history else 0.0,
        "train_loss": float(np.average([loss for loss, _ in losses], weights=weights)) if losses else None,
        "train_runtime": progress.seconds,
        "train_steps": progress.update,
        "train_samples": samples,
        "train_steps_per_second": progress.update / max(progress.seconds, 1e-9),
    }
    evals = [e for e in progress.log_history if "eval_loss" in e]
    if evals:
        shown = evals[-1]
        if best:
            shown = next((e for e in evals if e["step"] == progress.best_update), shown)
        results |= {k: v for k, v in shown.items() if k not in ("step", "epoch")}
        results["best_metric"], results["best_step"] = progress.best_metric, progress.best_update
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in results.items()}


def estimated_bytes(trainer: Trainer) -> tuple[int, int]:
    """(bytes of a checkpoint, bytes of an adapter folder), without writing one."""
    adapter = trainer.adapter.weights.nbytes * (1 if trainer.adapter.origin is None else 2)
    return adapter + trainer.optimizer.nbytes() + 10**5, adapter + 10**7


def _is_free(output: Path) -> bool:
    """Whether there is nothing in a folder but what a killed process of this program was writing."""
    return not output.is_dir() or all(atomic_io.is_temporary(path) for path in output.iterdir())


def _model_card(config: Config, results: dict[str, Any]) -> str:
    numbers = "".join(f"| {k} | {v:.4g} |\n" for k, v in results.items() if isinstance(v, float) and math.isfinite(v))
    return (
        f"---\nbase_model: {config.model_name_or_path}\nlibrary_name: peft\ntags: [lora]\n---\n\n"
        f"A LoRA adapter (rank {config.lora_rank}, alpha {config.alpha:g}) of `{config.model_name_or_path}`, trained with "
        f"qlora-fast on {', '.join(config.dataset)}. All settings: `config.yaml`.\n\n| | |\n|---|---|\n{numbers}"
    )
