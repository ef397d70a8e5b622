"""The per-sample file of an evaluation: it adds up to the evaluation, and its ids are the samples' contents."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from prepared import random_dataset, write_prepared
from qlora_fast.data.dataset import open_prepared
from qlora_fast.errors import ArtifactError
from qlora_fast.runs.eval_samples import read_samples, sample_id, write_samples
from qlora_fast.train.evaluate import EvalOptions, evaluate
from qlora_fast.train.forward import Forward


def test_the_file_adds_up_to_the_evaluation(tmp_path: Path) -> None:
    data = random_dataset(tmp_path / "p", 20, vocab=tiny.VOCAB, longest=30)
    chosen = np.array([7, 3, 19, 4, 0], dtype=np.int64)
    forward = Forward(tiny.qwen3(), torch.device("cpu"))
    path = tmp_path / "eval_samples.jsonl"
    result = evaluate(
        forward, data, chosen, EvalOptions(2, 64, True, True),
        on_samples=lambda loss, right: write_samples(path, data, chosen, loss, right),
    )  # fmt: skip
    samples = read_samples(path)
    assert samples.mean_loss == pytest.approx(result["eval_loss"], rel=1e-12)
    assert samples.right.sum() / samples.tokens.sum() == pytest.approx(result["eval_accuracy"], rel=1e-9)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["row"] for line in lines] == chosen.tolist()
    assert [line["line"] for line in lines] == (chosen + 1).tolist()
    for line, index in zip(lines, chosen.tolist(), strict=True):
        alone = evaluate(forward, data, np.array([index]), EvalOptions(1, 64, True, True))
        assert line["mean_loss"] == pytest.approx(alone["eval_loss"], rel=1e-5)


def test_an_id_is_the_content_and_not_the_place(tmp_path: Path) -> None:
    one = open_prepared(write_prepared(tmp_path / "a", [([5, 6, 7], [(1, 3)]), ([8, 9, 3], [(2, 3)])]))
    other = open_prepared(write_prepared(tmp_path / "b", [([8, 9, 3], [(2, 3)]), ([5, 6, 7], [(2, 3)])]))
    assert sample_id(one, 1) == sample_id(other, 0)
    assert sample_id(one, 0) != sample_id(other, 1), "the same tokens, but less of them is learned"


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "eval_samples.jsonl"
    path.write_text('{"id": "x"}\n')
    with pytest.raises(ArtifactError, match="is damaged"):
        read_samples(path)
