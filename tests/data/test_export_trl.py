"""TRL's SFTTrainer trains on what ``export`` wrote, and its losses are ours on the same samples.

Slow only because ``trl`` takes its time to import.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from cli_run import ROOT, cli, environment
from paths import FIXTURES
from prepared import random_dataset
from qlora_fast.data.batch import packed_row
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.export import export
from qlora_fast.train.forward import Forward

pytestmark = pytest.mark.slow
pytest.importorskip("trl")
LR = 1e-2


def trl_losses(rows: Any, folder: Path, *, packed: bool, vocabulary: int) -> tuple[list[float], list[list[list[int]]]]:
    """Two steps of TRL: the loss of each, and the ids of the samples in it."""
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    class Watched(SFTTrainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
            if packed:
                borders = (inputs["position_ids"][0] == 0).nonzero().flatten().tolist()
                ids = inputs["input_ids"][0].tolist()
                seen.append([ids[a:b] for a, b in zip(borders, [*borders[1:], len(ids)], strict=True)])
            else:
                pairs = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
                seen.append([ids[mask].tolist() for ids, mask in pairs])
            return super().compute_loss(model, inputs, *args, **kwargs)

    seen: list[list[list[int]]] = []
    model = tiny.qwen3(vocab_size=vocabulary, attention="sdpa").requires_grad_(True)
    arguments = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        max_steps=2,
        learning_rate=LR,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        logging_steps=1,
        max_length=None,
        padding_free=packed,
        gradient_checkpointing=False,
        report_to="none",
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(FIXTURES / "tokenizer" / "tokenizer.json"), eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    trainer = Watched(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], seen


def our_losses(dataset: PreparedDataset, batches: list[list[list[int]]], vocabulary: int) -> list[float]:
    """The same two steps, samples packed into one row, with our attention and our loss."""
    known = {tuple(dataset.ids(i).tolist()): i for i in range(len(dataset))}
    model = tiny.qwen3(vocab_size=vocabulary).requires_grad_(True)
    forward = Forward(model, torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    losses = []
    for batch in batches:
        row = packed_row(dataset, [known[tuple(ids)] for ids in batch])
        loss = forward.loss_sum(row) / len(row.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("packed", [None, 64], ids=["a sample a row", "packed"])
def test_trl_trains_on_it_with_our_loss(tmp_path: Path, packed: int | None) -> None:
    from datasets import load_dataset
    from tokenizers import Tokenizer

    vocabulary = 1 + max(Tokenizer.from_file(str(FIXTURES / "tokenizer" / "tokenizer.json")).get_vocab().values())
    dataset = random_dataset(tmp_path / "prepared", 24, vocab=vocabulary, longest=40)
    export(dataset, tmp_path / "data.parquet", packed=packed)
    rows = load_dataset("parquet", data_files=str(tmp_path / "data.parquet"), split="train", cache_dir=str(tmp_path))
    losses, batches = trl_losses(rows, tmp_path / "out", packed=packed is not None, vocabulary=vocabulary)
    assert len(losses) == len(batches) == 2
    assert all(len(batch) >= 4 for batch in batches)
    assert abs(losses[0] - losses[1]) > 1e-3
    np.testing.assert_allclose(losses, our_losses(dataset, batches, vocabulary), rtol=0, atol=1e-4)


@pytest.mark.parametrize("to", ["x.parquet", "x.arrow", "x.jsonl", "folder"])
def test_datasets_reads_every_form(tmp_path: Path, to: str) -> None:
    from datasets import load_dataset

    dataset = random_dataset(tmp_path / "prepared", 24, vocab=97, longest=40)
    export(dataset, tmp_path / to)
    builder = {"jsonl": "json", "folder": "parquet"}.get(to.split(".")[-1], to.split(".")[-1])
    where: dict[str, str] = {"data_dir" if to == "folder" else "data_files": str(tmp_path / to)}
    rows = load_dataset(builder, split="train", cache_dir=str(tmp_path / "cache"), **where)
    assert rows["labels"][:] == [sample["labels"].tolist() for sample in dataset]


def test_the_snippets_of_the_docs_run(tmp_path: Path, model_dir: Path) -> None:
    """docs/data.md, block after block, as a reader would paste them."""
    shutil.copytree(model_dir, tmp_path / "models" / "mine")
    demo = FIXTURES / "demo" / "alpaca_en.json"
    shutil.copy(demo, tmp_path / "data.json")
    settings = ("model_name_or_path=models/mine", "cutoff_len=512")
    report = cli("prep", "data.json", *settings, "--json", cwd=tmp_path).json
    (tmp_path / report["path"]).rename(tmp_path / "prepared" / "data-1a2b3c4d5e")
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    commands = re.findall(r"^(qlora-fast export .*)$", text, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        ran = cli(*command.split()[1:], cwd=tmp_path)
        assert ran.status == 0, ran.err
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    code = "\n".join(blocks)
    where = {**environment(), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
    ran_all = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=where, capture_output=True, text=True, check=False
    )
    assert ran_all.returncode == 0, ran_all.stderr
