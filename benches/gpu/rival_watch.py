"""What every rival's Trainer is watched with: one JSON line per update in the file that RIVAL_CURVE names.

Axolotl imports a plugin by its path and calls it; LLaMA-Factory and a Trainer take the callback itself.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benches.gpu.rival_runs import CURVE


class Watch(TrainerCallback):
    """When each update ended, the device waited for, and its loss and gradient norm. Needs ``logging_steps: 1``."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or Path(os.environ[CURVE])

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.line(end=time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.line(loss=float(logs["loss"]), grad_norm=float(logs.get("grad_norm", float("nan"))))

    def line(self, **values: float) -> None:
        """Add a line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def __getattr__(name: str) -> Any:
    if name != "AxolotlPlugin":
        raise AttributeError(name)
    from axolotl.integrations.base import BasePlugin

    class AxolotlPlugin(BasePlugin):  # type: ignore[misc]
        """Adds the callback."""

        def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[TrainerCallback]:
            return [Watch()]

    return AxolotlPlugin
