"""Encoding beside ``tokenizers``: the same ids, in another time. The texts are the small data sets of the tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from qlora_fast import _core

DATA = Path(__file__).parent.parent / "tests" / "data"
TOKENIZER = str(DATA / "tokenizer" / "tokenizer.json")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    records = [r for name in ("alpaca_en", "alpaca_zh") for r in json.loads((DATA / f"demo/{name}.json").read_text())]
    return [r["instruction"] + "\n" + r["output"] for r in records] * 20


def ours(encoder: _core.ChatEncoder, texts: list[str]) -> list[list[int]]:
    return [encoder.encode_text(text) for text in texts]


@pytest.mark.parametrize("engine", ["native", "tokenizers"])
def test_ours(benchmark: Callable[..., Any], texts: list[str], engine: str) -> None:
    encoder = _core.ChatEncoder(TOKENIZER, "chatml", engine=engine)
    reference = [e.ids for e in Tokenizer.from_file(TOKENIZER).encode_batch_fast(texts, add_special_tokens=False)]
    assert benchmark(ours, encoder, texts) == reference


def test_tokenizers_batch(benchmark: Callable[..., Any], texts: list[str]) -> None:
    tokenizer = Tokenizer.from_file(TOKENIZER)
    assert len(benchmark(tokenizer.encode_batch_fast, texts, add_special_tokens=False)) == len(texts)
