"""How fast a CPU trains in rows of different lengths: real tokens/s of forward and backward of the embedded model.

    python -m benches.row_length [128 256 512 1024 2048 4096]

What ``max_tokens_per_row: auto`` is on a CPU rests on it (``qlora_fast.train.row_budget.CPU_ROW``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from prepared import random_dataset
from qlora_fast.data.batch import packed_row
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.hub import resolve
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.load import load_base
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.train.forward import Forward
from qlora_fast.train.memory_probe import run_row

CPU = torch.device("cpu")


def one(forward: Forward, adapter: Adapter, data: PreparedDataset, tokens: int) -> tuple[int, float]:
    """(real tokens, seconds) of a row of at most so many tokens."""
    fit = int((data.lengths.astype("int64").cumsum() <= tokens).sum())
    row = packed_row(data, range(max(1, fit)))
    started = time.perf_counter()
    run_row(forward, adapter, row)
    return row.n_tokens, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=int, nargs="*", default=[128, 256, 512, 1024, 2048, 4096])
    words = parser.parse_args()
    base = load_base(resolve.model_path(resolve.EMBEDDED), dtype=torch.float32, device=CPU)
    model = add_lora(base, LoraSpec(rank=8, alpha=16), seed=0)
    adapter, forward = Adapter(model), Forward(model, CPU)
    with tempfile.TemporaryDirectory() as folder:
        data = random_dataset(Path(folder) / "data", 400, vocab=100, longest=150)
        one(forward, adapter, data, 128)  # the first pass loads kernels
        for tokens in words.tokens:
            real, seconds = min((one(forward, adapter, data, tokens) for _ in range(2)), key=lambda pair: pair[1])
            print(f"{tokens:>6} tokens ({real:>5} real): {seconds:6.2f} s, {real / seconds:5.0f} tokens/s", flush=True)


if __name__ == "__main__":
    main()
