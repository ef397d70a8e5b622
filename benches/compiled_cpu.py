"""Compiled layers on the CPU, beside the layers' own code: forward and backward of the same rows in turns, in one process.

    python -m benches.compiled_cpu --data alpaca_data.json [--dtype fp32 bf16] [--kernels off auto]

The embedded model at its real widths, LoRA r = 8 on all linears, with transformers' and PEFT's code and with ours. Prints what
compiling took, tokens per second (a median of turns) and how far loss and gradient are from those of
the same code as it is; fails where fp32 differs by more than 1e-5.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from qlora_fast.config import load
from qlora_fast.config.keys.model import Kernels
from qlora_fast.data.batch import Row, packed_row
from qlora_fast.data.prepare import prepare_config
from qlora_fast.hub import resolve
from qlora_fast.model.compiled import CompiledLayers, layers_to_compile
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.load import load_base
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.model.patch import report_of
from qlora_fast.train.forward import Forward

CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Pass:
    """One row."""

    loss: float
    gradient: Tensor
    seconds: float

    def off(self, wanted: Pass) -> tuple[float, float]:
        """Relative differences of loss and gradient."""
        gradient = (self.gradient - wanted.gradient).norm() / wanted.gradient.norm()
        return abs(self.loss - wanted.loss) / abs(wanted.loss), float(gradient)


def run(forward: Forward, adapter: Adapter, row: Row) -> Pass:
    adapter.discard()
    began = time.perf_counter()
    loss = forward.loss_sum(row)
    torch.autograd.backward(loss / 100)
    adapter.collect()
    seconds = time.perf_counter() - began
    return Pass(float(loss.detach()), adapter.gradient.clone(), seconds)


def measure(path: str, rows: list[Row], dtype: str, kernels: Kernels, turns: int) -> None:
    """Print both lines of a kind of code."""
    model = add_lora(
        load_base(path, dtype=DTYPES[dtype], device=CPU), LoraSpec(rank=8, alpha=16), seed=0, kernels=kernels
    )
    adapter, forward = Adapter(model), Forward(model, CPU)
    generator = torch.Generator().manual_seed(0)
    adapter.weights.add_(torch.empty_like(adapter.weights).normal_(std=0.01, generator=generator))  # B is zero at first
    adapter.publish()
    layers = CompiledLayers(layers_to_compile(model), whole=False)
    began = time.perf_counter()
    run(forward, adapter, rows[0])
    compiling = time.perf_counter() - began
    passes: dict[bool, list[list[Pass]]] = {False: [], True: []}
    for _ in range(turns):
        for layers.on in (False, True):
            passes[layers.on].append([run(forward, adapter, row) for row in rows])
    tokens = sum(row.input_ids.size for row in rows)
    wanted = passes[False][0]
    for on, name in ((False, "as they are"), (True, f"compiled in {compiling:.0f} s")):
        speed = statistics.median(tokens / sum(p.seconds for p in turn) for turn in passes[on])
        loss, gradient = (
            max(each) for each in zip(*(p.off(w) for p, w in zip(passes[on][0], wanted, strict=True)), strict=True)
        )
        first = passes[on][0][0]
        print(
            f"{dtype}, kernels: {kernels:<5}{name:<18}{speed:>6.0f} tok/s  loss {first.loss:.4f}, gradient norm "
            f"{float(first.gradient.norm()):.5f}; off by {loss:.1e} and {gradient:.1e}  ({report_of(model).products})",
            flush=True,
        )
        if dtype == "fp32" and max(loss, gradient) > 1e-5:
            raise SystemExit("the two do not compute the same thing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--kernels", choices=get_args(Kernels), nargs="+", default=["off", "auto"])
    parser.add_argument("--turns", type=int, default=3)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = prepare_config(
            load(None, [f"dataset={words.data}", "max_samples=64", f"prepared_dir={folder}"]).config
        ).open()
        rows = [packed_row(dataset, samples) for samples in (range(6), range(6, 9), range(9, 17))]
        path = resolve.model_path(resolve.EMBEDDED)
        for dtype in words.dtype:
            for kernels in words.kernels:
                measure(path, rows, dtype, kernels, words.turns)


if __name__ == "__main__":
    main()
