"""One run a setting, of a tenth of a second, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from qlora_fast.config import load
from qlora_fast.data.dataset import open_prepared
from qlora_fast.train.run import train
from tiny_folder import config_file


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    results: dict[str, Any]

    @property
    def log(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.folder / "trainer_log.jsonl").read_text().splitlines()]

    def column(self, name: str) -> list[float]:
        return [entry[name] for entry in self.log if name in entry]

    @property
    def weights(self) -> dict[str, Tensor]:
        return load_file(self.folder / "adapter_model.safetensors")

    @property
    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = json.loads((self.folder / "adapter_config.json").read_text())
        return settings

    @property
    def samples(self) -> Any:
        return open_prepared(next((self.folder.parent / "prepared").iterdir()))


Make = Callable[..., Run]


def maker(model: Path, folder: Path) -> Make:
    """Trains in a tenth of a second; equal settings give equal runs."""
    made = 0

    def make(**settings: Any) -> Run:
        nonlocal made
        made += 1
        own = folder / f"{made}"
        own.mkdir()
        few = {"max_samples": 24, "plot_loss": "false", "optim": "adamw_torch", "val_size": 8, "eval_strategy": "no"}
        config = load(config_file(own, model, **{**few, "compute_accuracy": "false", **settings})).config
        return Run(own / "run", train(config))

    return make


def size(change: dict[str, Tensor], part: str) -> float:
    return sum(float(value.norm()) for name, value in change.items() if part in name)


def same(a: Run, b: Run) -> bool:
    ours, theirs = a.weights, b.weights
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def go_on(made: Run, start: Path, *words: str) -> None:
    """Resume a run from one of its checkpoints."""
    config = made.folder.parent / "tiny.yaml"
    train(load(config, [f"resume_from_checkpoint={start}", *words]).config)
