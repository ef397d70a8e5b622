"""Axolotl's own loading code takes what ``export`` wrote as data that needs no template: the same ids, the same labels.

Runs where Axolotl is installed, which is no dependency of the tests: it pins the versions of half a hundred packages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paths import FIXTURES
from prepared import random_dataset
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.export import export

pytestmark = pytest.mark.slow
loading = pytest.importorskip("axolotl.utils.data.sft")
COLUMNS = ["input_ids", "attention_mask", "labels"]


def loaded(data: dict[str, str], folder: Path, **more: Any) -> Any:
    """The rows that Axolotl would train on, with a config as its YAML would be."""
    from axolotl.utils.dict import DictDefault
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(FIXTURES / "tokenizer" / "tokenizer.json"))
    settings = {
        "datasets": [data],
        "dataset_prepared_path": str(folder / "axolotl"),
        "sequence_len": 64,
        "val_set_size": 0,
        "micro_batch_size": 2,
        "batch_size": 2,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1,
        "world_size": 1,
        "seed": 1,
        "dataset_num_proc": 1,
    }
    return loading.prepare_datasets(DictDefault({**settings, **more}), tokenizer)[0]


def pairs(rows: Any) -> list[tuple[list[int], list[int]]]:
    return sorted((list(row["input_ids"]), list(row["labels"])) for row in rows)


def ours(dataset: PreparedDataset) -> list[tuple[list[int], list[int]]]:
    return sorted((sample["input_ids"].tolist(), sample["labels"].tolist()) for sample in dataset)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("data", "parquet"), ("data.parquet", "parquet"), ("data.arrow", "arrow"), ("data.jsonl", "json")],
)
def test_axolotl_reads_what_was_exported(name: str, kind: str, tmp_path: Path) -> None:
    dataset = random_dataset(tmp_path / "prepared", 50, vocab=97, longest=40)
    export(dataset, tmp_path / name, columns=COLUMNS)
    rows = loaded({"path": str(tmp_path / name), "ds_type": kind}, tmp_path)
    assert rows.column_names == COLUMNS
    assert pairs(rows) == ours(dataset)


def test_axolotl_packs_it_by_itself(tmp_path: Path) -> None:
    dataset = random_dataset(tmp_path / "prepared", 50, vocab=97, longest=40)
    export(dataset, tmp_path / "data", columns=COLUMNS)
    packing = {"sample_packing": True, "sample_packing_eff_est": 1.0, "model_config_type": "qwen3"}
    rows = loaded({"path": str(tmp_path / "data"), "ds_type": "parquet"}, tmp_path, **packing)
    assert pairs(rows) == ours(dataset)
    assert all(row["position_ids"] == list(range(len(row["input_ids"]))) for row in rows)
