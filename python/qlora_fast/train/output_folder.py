"""The folder of a run: the guide's files, name for name, and how an earlier run in the same place is treated."""

from __future__ import annotations

import json
import logging
import math
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qlora_fast import _core, atomic_io
from qlora_fast.config import Config
from qlora_fast.data.saved_tokenizer import save_tokenizer
from qlora_fast.data.tokenizer import Tokenizer
from qlora_fast.errors import ArtifactError, Interrupted
from qlora_fast.hub import resolve
from qlora_fast.plots import plot_losses
from qlora_fast.runs.adapter_card import write_card
from qlora_fast.train import checkpoint
from qlora_fast.train.progress import Log, Progress
from qlora_fast.train.trainer import Trainer

log = logging.getLogger(__name__)

MARK = "run.json"
"""Marks a folder as a run of this program: only such a folder is ever moved aside or written into."""


def check_output(config: Config) -> None:
    """Refuse a folder that the run may not have, before anything is done for it. Nothing is touched.

    Raises:
        ArtifactError: the folder holds a run, or something else.
    """
    output = Path(config.output_dir)
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not (output / MARK).is_file():
        raise ArtifactError(
            f"`{output}` is not empty and not a run of qlora-fast; nothing in it was touched",
            hint="give another output_dir",
        )
    if not config.overwrite_output_dir and not config.resume_from_checkpoint:
        raise ArtifactError(
            f"`{output}` holds a run already",
            hint="resume_from_checkpoint=true goes on with it, overwrite_output_dir=true moves it aside, "
            "output_dir=… starts another",
        )


def claim_output(config: Config) -> None:
    """Make the run's folder, or take it over as the config says; what is not ours is never touched.

    To be called when data and model are there: a run that cannot begin moves no earlier one aside.

    Raises:
        ArtifactError: the folder holds a run, or something else.
    """
    check_output(config)
    output = Path(config.output_dir)
    if config.overwrite_output_dir and (output / MARK).is_file():
        aside = output.with_name(f"{output.name}.old-{time.strftime('%Y%m%d-%H%M%S')}")
        output.rename(aside)
        log.info("the earlier run was moved to `%s`", aside)
    output.mkdir(parents=True, exist_ok=True)
    atomic_io.recover(output)


def log_line(entry: Log, updates: int) -> str:
    return json.dumps({**entry, "total_steps": updates}) + "\n"


def finish_output(trainer: Trainer, config: Config, tokenizer: Tokenizer, results: dict[str, Any]) -> None:
    """The guide's output folder, name for name."""
    output, progress = Path(config.output_dir), trainer.progress
    write_adapter(output / "last", trainer, tokenizer, config)
    source = output / "best" if config.load_best_model_at_end and (output / "best").is_dir() else output / "last"
    for file in source.iterdir():
        shutil.copy2(file, output / file.name)
    groups = {
        "train_results.json": {k: v for k, v in results.items() if not k.startswith("eval_") and k != "perplexity"},
        "eval_results.json": {
            k: v for k, v in results.items() if k.startswith("eval_") or k in ("perplexity", "epoch")
        },
        "all_results.json": results,
        "trainer_state.json": checkpoint.trainer_state(progress),
    }
    if "eval_loss" not in results:
        del groups["eval_results.json"]
    for name, content in groups.items():
        atomic_io.write_text(output / name, json.dumps(content, indent=2))
    if config.plot_loss:
        plot_losses(progress.log_history, output, f"{config.model_name_or_path}, rank {config.lora_rank}")
    atomic_io.write_text(output / "README.md", _model_card(config, results))


def keep_best(config: Config, trainer: Trainer, result: Log, tokenizer: Tokenizer, output: Path | None) -> bool:
    """Note whether this evaluation is the best so far, and keep its adapter if it is."""
    value = result[config.metric_for_best_model]
    best = trainer.progress.best_metric
    better = best is None or (value > best if config.metric_for_best_model == "eval_accuracy" else value < best)
    trainer.progress.evaluations_since_best += 1
    if better:
        trainer.progress.best_metric, trainer.progress.best_update = value, trainer.progress.update
        trainer.progress.evaluations_since_best = 0
        if output is not None:
            write_adapter(output / "best", trainer, tokenizer, config)
    return better


def ending(trainer: Trainer, config: Config) -> str:
    """Why a run that came to its end ended, in a line."""
    progress = trainer.progress
    if trainer.out_of_patience:
        waited, best = progress.evaluations_since_best, progress.best_metric
        return (
            f"early stopping: {waited} evaluation{'s' * (waited > 1)} without a better {config.metric_for_best_model} than "
            f"{best:.4f} at update {progress.best_update}; {progress.update:,} of {trainer.schedule.updates:,} updates made"
        )
    why = "max_steps" if config.max_steps is not None else "finished"
    return f"{why}: all {trainer.schedule.updates:,} updates made"


@contextmanager
def ending_noted(output: Path | None, about: dict[str, Any], trainer: Trainer) -> Iterator[None]:
    """Keep run.json true about how the run stands: running, interrupted, failed. Its success is noted by the caller."""
    note_ending(output, about, "still running, or killed")
    try:
        yield
    except Interrupted:
        at = trainer.progress.update
        note_ending(output, about, f"signal: stopped behind update {at:,}; resume_from_checkpoint=true goes on")
        raise
    except BaseException as error:
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        note_ending(output, about, f"error behind update {trainer.progress.update:,}: {first}")
        raise


def note_ending(output: Path | None, about: dict[str, Any], text: str) -> None:
    """Write run.json with how the run stands; without a folder (on all ranks but the first) do nothing."""
    if output is not None:
        atomic_io.write_text(output / MARK, json.dumps({**about, "ended": text}, indent=2))


def write_adapter(folder: Path, trainer: Trainer, tokenizer: Tokenizer, config: Config) -> None:
    """An adapter folder that PEFT loads and `chat` understands."""
    with atomic_io.new_folder(folder) as made:
        checkpoint.write_adapter(made, trainer.forward.model, trainer.adapter, config.model_name_or_path)
        save_tokenizer(tokenizer, made)
        write_card(made, config.model_name_or_path, tokenizer, resolve.digest(tokenizer.folder / "tokenizer.json"))


def results_of(progress: Progress, samples: int, config: Config) -> dict[str, Any]:
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
        last = evals[-1]
        if config.load_best_model_at_end and progress.best_update is not None:
            last = next(e for e in evals if e["step"] == progress.best_update)
        results |= {k: v for k, v in last.items() if k not in ("step", "epoch")}
        results["best_metric"], results["best_step"] = progress.best_metric, progress.best_update
    return results


def environment(config: Config, data_fingerprint: str, device: torch.device) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "qlora_fast": _core.__version__,
        "command": sys.argv,
        "data": data_fingerprint,
        "seed": config.seed,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "tokenizers", "numpy")},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
    }


def _model_card(config: Config, results: dict[str, Any]) -> str:
    numbers = "".join(f"| {k} | {v:.4g} |\n" for k, v in results.items() if isinstance(v, float) and math.isfinite(v))
    return (
        f"---\nbase_model: {config.model_name_or_path}\nlibrary_name: peft\ntags: [lora]\n---\n\n"
        f"A LoRA adapter (rank {config.lora_rank}, alpha {config.alpha:g}) of `{config.model_name_or_path}`, trained with "
        f"qlora-fast on {', '.join(config.dataset)}. All settings: `config.yaml`.\n\n| | |\n|---|---|\n{numbers}"
    )
