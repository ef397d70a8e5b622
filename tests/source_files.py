"""Data files that tests write, and what preparing them gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from cli_run import DATA
from qlora_fast.config import Config
from qlora_fast.data import dataset_info
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.prepare import Prepared, prepare_config

DEMO = DATA / "demo"
ROWS = [{"instruction": f"question {i}", "input": "", "output": f"answer {i}"} for i in range(40)]


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows, ensure_ascii=False)
    if path.name.endswith(".jsonl"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def prepared(settings: dict[str, Any], *names: str, **more: Any) -> Prepared:
    return prepare_config(Config(**settings, dataset=list(names), **more))


def same(a: PreparedDataset, b: PreparedDataset) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x["input_ids"], y["input_ids"]) and np.array_equal(x["labels"], y["labels"])
        for x, y in zip(a, b, strict=True)
    )


def listed(folder: Path, **entries: Any) -> None:
    """A dataset_info.json with these entries."""
    (folder / dataset_info.FILE).write_text(json.dumps(entries), encoding="utf-8")
