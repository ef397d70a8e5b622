"""A training run of a tiny model whose evaluations are played, and that can be stopped at any update."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli_run import DATA
from qlora_fast.config import Config
from qlora_fast.train import callbacks
from qlora_fast.train.run import Watch, train

Start = Callable[..., dict[str, Any]]
LOSSES = {2: 1.0, 4: 0.5, 6: 0.7, 8: 0.6, 10: 0.4, 12: 0.3}


class Crash(BaseException):
    """Stands for the power going off."""


def player(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Trains a tiny model for 12 updates; its evaluations are played from `LOSSES`, by update."""

    def begin(*, at: Callable[[int], None] = lambda _: None, **settings: Any) -> dict[str, Any]:
        now = 0

        def on_update(update: int, _: int) -> None:
            nonlocal now
            now = update
            at(update)

        def played(*_: Any, **more: Any) -> dict[str, float]:
            loss = LOSSES[now]
            return {"eval_loss": loss, "perplexity": 2.0, "eval_loss_hf": loss, "eval_accuracy": 1 - loss}

        monkeypatch.setattr(callbacks, "evaluate", played)
        monkeypatch.setattr(callbacks, "write_samples", lambda *_: None)
        base: dict[str, Any] = {
            "model_name_or_path": str(model_dir), "dataset": [str(DATA / "demo" / "alpaca_en.json")], "cutoff_len": 128,
            "val_size": 0.2, "lora_rank": 2, "learning_rate": 1e-3, "max_steps": 12, "eval_strategy": "steps",
            "eval_steps": 2, "save_steps": 2, "logging_steps": 5, "per_device_train_batch_size": 2, "plot_loss": False,
            "gradient_accumulation_steps": 1, "output_dir": str(tmp_path / "run"),
            "prepared_dir": str(tmp_path / "prepared"),
        }  # fmt: skip
        return train(Config(**{**base, **settings}), Watch(on_update=on_update))

    return begin


def adapter(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()
