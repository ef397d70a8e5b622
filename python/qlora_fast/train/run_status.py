"""``run.json``: what produced a run, and how it stands: running, interrupted, failed, or why it ended."""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import qlora_fast
from qlora_fast import atomic_io
from qlora_fast.config import Config
from qlora_fast.errors import Interrupted, StorageError, first_line
from qlora_fast.runs import layout
from qlora_fast.train.identity import FILES, Identity, library_versions
from qlora_fast.train.trainer import Trainer

log = logging.getLogger(__name__)

RUNNING = "still running, or killed"
PREPARING = "preparing, or killed before its first update"


def environment(config: Config, identity: Identity, device: torch.device) -> dict[str, Any]:
    """What the result depends on beside the settings in config.yaml."""
    return {
        "qlora_fast": qlora_fast.__version__,
        "command": sys.argv,
        "data": identity["data"],
        "seed": config.seed,
        "versions": library_versions(),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "identity": {name: identity[name] for name in FILES},
    }


class RunStatus:
    """Keeps run.json true about how the run stands. On all ranks but the first it writes nothing."""

    def __init__(self, output: Path | None, about: dict[str, Any]) -> None:
        self._output, self.about = output, about

    def note(self, text: str) -> None:
        """Write how the run stands.

        Raises:
            StorageError: run.json cannot be written.
        """
        if self._output is not None:
            atomic_io.write_json(self._output / layout.RUN, {**self.about, "ended": text})

    @contextmanager
    def watching(self, trainer: Trainer) -> Iterator[None]:
        """Note that the run is running, and how it stops if it does before its end."""
        self._try("at the start", RUNNING)
        try:
            yield
        except Interrupted:
            at = trainer.progress.update
            self._try("the signal", f"signal: stopped after update {at:,}; resume_from_checkpoint=true resumes")
            raise
        except BaseException as error:
            self._try("the error", f"error after update {trainer.progress.update:,}: {first_line(error)}")
            raise

    def _try(self, what: str, text: str) -> None:
        # A full disk must not hide the error that is being noted, nor end a run that has not begun.
        try:
            self.note(text)
        except StorageError as problem:
            log.warning("%s could not be noted: %s", what, problem)


def ending(trainer: Trainer, config: Config) -> str:
    """Why a run that came to its end ended, in a line."""
    progress, updates = trainer.progress, trainer.schedule.updates
    if trainer.out_of_patience:
        waited, best = progress.evaluations_since_best, progress.best_metric
        than = "at all" if best is None else f"than {best:.4f} at update {progress.best_update}"
        return (
            f"early stopping: {waited} evaluation{'s' * (waited > 1)} without a better {config.metric_for_best_model} {than}; "
            f"{progress.update:,} of {updates:,} updates made"
        )
    why = "max_steps" if config.max_steps is not None else "finished"
    return f"{why}: all {updates:,} updates made"
