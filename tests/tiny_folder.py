"""Run folders for tests of the tools: trained for real on the tiny model, or written by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cli_run import DATA
from qlora_fast.config import dump, load
from qlora_fast.train.run import train

ALPACA = DATA / "demo" / "alpaca_en.json"


def config_file(folder: Path, model: Path, **settings: Any) -> Path:
    """A config that trains in a second or two."""
    values = {
        "model_name_or_path": model,
        "dataset": ALPACA,
        "cutoff_len": 64,
        "val_size": 10,
        "lora_rank": 4,
        "learning_rate": 5e-3,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "logging_steps": 1,
        "compute_accuracy": "true",
        "output_dir": folder / "run",
        "prepared_dir": folder / "prepared",
        **settings,
    }
    path = folder / "tiny.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    return path


def trained(folder: Path, model: Path, **settings: Any) -> Path:
    """The output folder of a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    config = load(config_file(folder, model, **settings)).config
    train(config)
    return Path(config.output_dir)


def written(
    folder: Path,
    losses: Sequence[float] | None,
    *,
    tokens: Sequence[int] | None = None,
    ids: str = "s",
    **settings: Any,
) -> Path:
    """A folder as a finished run leaves it, with these summed losses of its samples."""
    folder.mkdir(parents=True)
    words = [f"{key}={value}" for key, value in settings.items()]
    (folder / "config.yaml").write_text(dump(load(None, words).config))
    (folder / "run.json").write_text("{}")
    results: dict[str, Any] = {"train_loss": 1.9, "train_steps": 40, "train_runtime": 95.0}
    history = [{"step": s, "loss": 2.0 - s / 100} for s in range(1, 41)]
    if losses is not None:
        counts = list(tokens) if tokens is not None else [10] * len(losses)
        lines = [
            {"file": "d.json", "line": i, "row": i, "id": f"{ids}{i}", "tokens": t, "loss": x, "accuracy": 0.5}
            for i, (x, t) in enumerate(zip(losses, counts, strict=True))
        ]
        (folder / "eval_samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        results["eval_loss"] = float(np.sum(losses) / np.sum(counts))
        history.append({"step": 40, "eval_loss": results["eval_loss"]})
    (folder / "all_results.json").write_text(json.dumps(results))
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return folder
