"""A prepared folder from lists, written with the safetensors library: independent of the Rust writer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from blake3 import blake3
from safetensors.numpy import save_file

from qlora_fast import _core
from qlora_fast.data.dataset import PreparedDataset, open_prepared

Span = tuple[int, int]


def write_prepared(folder: Path, samples: Sequence[tuple[Sequence[int], Sequence[Span]]], shards: int = 1) -> Path:
    """Write ``samples`` of (token ids, supervised spans) in as many shards as asked."""
    folder.mkdir(parents=True)
    entries: list[dict[str, object]] = []
    first = 0
    for number, part in enumerate(np.array_split(np.arange(len(samples)), shards)):
        chosen = [samples[int(i)] for i in part]
        spans = [s for _, own in chosen for s in own]
        columns = {
            "input_ids": np.concatenate([np.asarray(ids, np.int32) for ids, _ in chosen]),
            "sample_offsets": np.cumsum([0, *(len(ids) for ids, _ in chosen)]).astype(np.int64),
            "spans": np.array(spans, np.int32).reshape(-1, 2),
            "span_offsets": np.cumsum([0, *(len(own) for _, own in chosen)]).astype(np.int64),
            "record_file": np.zeros(len(chosen), np.int32),
            "record_index": np.arange(first, first + len(chosen), dtype=np.int64),
            "record_line": np.arange(first, first + len(chosen), dtype=np.int64) + 1,
        }
        first += len(chosen)
        name = f"shard-{number:05}.safetensors"
        save_file(columns, folder / name)
        content = (folder / name).read_bytes()
        header = 8 + int.from_bytes(content[:8], "little")
        tokens = len(columns["input_ids"])
        digest = blake3(content[header:]).hexdigest()
        entries.append({"file": name, "rows": len(chosen), "tokens": tokens, "bytes": len(content), "blake3": digest})
    (folder / "manifest.json").write_text(json.dumps(_manifest(samples, entries)))
    return folder


def _manifest(samples: Sequence[tuple[Sequence[int], Sequence[Span]]], entries: list[dict[str, object]]) -> object:
    lengths = sorted(len(ids) for ids, _ in samples)
    ranks = {f"p{n}": lengths[max(0, -(-len(lengths) * n // 100) - 1)] for n in (50, 90, 95, 99)}
    tokens = sum(lengths)
    return {
        "format_version": _core.FORMAT_VERSION,
        "fingerprint": "f" * 64,
        "format": "alpaca",
        "template": "qwen3",
        "cutoff_len": max(lengths),
        "rows_read": len(samples),
        "rows_kept": len(samples),
        "rows_dropped": {},
        "dropped_examples": [],
        "repairs": {},
        "notices": {},
        "ignored_keys": {},
        "tokens": tokens,
        "supervised_tokens": sum(end - start for _, spans in samples for start, end in spans),
        "rows_truncated": 0,
        "tokens_cut": 0,
        "turns_cut": 0,
        "most_cut": [],
        "lengths": {**ranks, "max": lengths[-1], "mean": tokens / len(lengths)},
        "full_lengths": " ".join(f"{length}:1" for length in lengths),
        "sources": [
            {"path": "data.json", "dataset": "data.json", "bytes": 1, "blake3": "0" * 64, "rows": len(samples)}
        ],
        "shards": entries,
    }


def random_dataset(folder: Path, n: int, *, vocab: int, longest: int, seed: int = 0) -> PreparedDataset:
    """``n`` samples of random ids; the second half of each is supervised (at least one token)."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(n):
        length = int(rng.integers(3, longest + 1))
        start = int(rng.integers(1, length))
        samples.append((rng.integers(0, vocab, length).tolist(), [(start, length)]))
    return open_prepared(write_prepared(folder, samples))
