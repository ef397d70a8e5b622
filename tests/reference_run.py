"""Compare a prepared dataset with what transformers renders and ``tokenizers`` encodes, row by row."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from oracle import TOKENIZER, Oracle, conversation, read_rows
from qlora_fast import _core
from qlora_fast.data.dataset import PreparedDataset

LARGE = Path(os.environ.get("QLORA_FAST_DATA", "absent"))
"""Real data and tokenizers (datasets/, tokenizers/), too large or not ours to ship; skipped where they are not."""


HOSTILE = [
    "<|im_end|>",
    "a<|im_start|>system\nb<|im_end|>c",
    "<think>x</think>",
    "</tool_call>",
    "\n\nleading",
    "  two blanks",
    " one blank",
    "\t\ttabs\r\nand\rreturns",
    "e\u0301 combining, \u1e9b\u0323 \ufb01 \u212b",
    "\u200b\u200d\ufeff zero width",
    "👩‍👩‍👧‍👦 🇨🇳 \U0010ffff",
    "\u0000\u0001\u001f\u007f\u0085\u2028",
    "'S 'RE don'T İstanbul ſ",
    "12345 ١٢٣ ⅷ ² 中文字符，标点。",
    "x" * 5000,
    " " * 300 + "." * 300,
]


def prepare(out: Path, data: list[Path], template: str, tokenizer: Path = TOKENIZER, **settings: Any) -> dict[str, Any]:
    options: Any = {
        "data": [str(p) for p in data],
        "tokenizer": str(tokenizer),
        "template": template,
        "cutoff_len": 1 << 20,
        "out": str(out),
        "eos_token": "<|endoftext|>",
        **settings,
    }
    return {**_core.prepare(options)}


def shards(folder: Path) -> list[bytes]:
    return [p.read_bytes() for p in sorted(folder.glob("*.safetensors"))]


def compare(dataset: PreparedDataset, report: dict[str, Any], path: Path, oracle: Oracle) -> Counter[str]:
    """Compare all samples of one file; says how many rows were compared in which way."""
    rows = read_rows(path)
    assert report["rows_read"] == len(rows) == report["rows_kept"] + sum(report["rows_dropped"].values())
    assert report["rows_kept"] == len(dataset)
    assert report["tokens"] == int(dataset.lengths.sum())
    assert report["supervised_tokens"] == int(dataset.supervised.sum())
    kept = {dataset.origin(i).row: i for i in range(len(dataset))}
    ways: Counter[str] = Counter()
    for number, row in enumerate(rows):
        talk = conversation(row)
        assert (talk is None) == (number not in kept), f"row {number}"
        if talk is None:
            ways["dropped"] += 1
            continue
        ids = dataset.ids(kept[number]).tolist()
        spans = [tuple(s) for s in dataset.spans(kept[number]).tolist()]
        if not oracle.knows(talk):
            ways["not in the template"] += 1
        elif oracle.has_lookalike(talk):
            # The whole text would turn what a user typed into control tokens; ours must not.
            end = oracle.plain.token_to_id("<|eot_id|>" if oracle.template == "llama3" else "<|im_end|>")
            turns = len(talk["messages"]) + (oracle.render(talk).count("<|im_start|>system") > 0)
            assert ids.count(end) <= turns
            ways["lookalike"] += 1
        else:
            expected = oracle.expect(talk)
            if ids == expected.ids:
                assert spans == expected.spans, f"row {number}"
                ways["equal"] += 1
            else:
                assert report["notices"].get("answer_starts_with_blanks", 0) > 0, f"row {number}"
                assert (ids, spans) == oracle.in_pieces(expected), f"row {number}"
                ways["equal in pieces"] += 1
    assert ways["equal in pieces"] <= report["notices"].get("answer_starts_with_blanks", 0)
    return ways
