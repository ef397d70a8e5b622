"""A program for the null GPU: rows captured as CUDA graphs and replayed, as a run does it. Prints one JSON object.

torch's own capture runs: whatever may not happen meanwhile (a wait, memory from elsewhere, a copy from pageable memory) raises.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benches.gpu.shapes import ModelShape, make_data, make_model, quantize  # noqa: E402
from benches.gpu.step import SPEC  # noqa: E402

from qlora_fast.data.batch import packed_row  # noqa: E402
from qlora_fast.data.rung import ladder, size_of  # noqa: E402
from qlora_fast.model.flat_adapter import Adapter  # noqa: E402
from qlora_fast.model.lora import add_lora  # noqa: E402
from qlora_fast.train.forward import Forward  # noqa: E402
from qlora_fast.train.graphs import CudaRecorder, Graphs  # noqa: E402

KERNEL, PRODUCT, COPY, SET, WAIT, GRAPH = range(6)
"""The counters of stubs/nullgpu.h."""
GPU = torch.device("cuda", 0)
SHAPE = ModelShape("two layers", 256, 512, 2, 4, 2, tied=True, vocab=512, head_dim=64)


def counted() -> list[int]:
    count = ctypes.CDLL(os.environ["LD_PRELOAD"]).nullgpu_counted
    count.restype = ctypes.c_long
    return [int(count(event)) for event in range(6)]


class Recorder(CudaRecorder):
    """Numbers mean nothing here, and so do times: the checks that need them are passed."""

    def milliseconds(self, work: Any) -> float:
        super().milliseconds(work)
        return 0.0


def run(four_bits: bool) -> dict[str, Any]:
    base = make_model(SHAPE, GPU, torch.bfloat16)
    model = add_lora(quantize(base) if four_bits else base, SPEC, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "data", 200, SHAPE.vocab)
    rows = [packed_row(data, range(n * 10, n * 10 + 9)) for n in range(12)]
    adapter, forward = Adapter(model), Forward(model, GPU)
    forward.plain_head = True  # asked by comparing numbers
    row_pass = Graphs(forward, adapter, ladder(map(size_of, rows), int(data.lengths.max())), Recorder())
    for row in rows:
        for _ in range(2):
            adapter.discard()
            row_pass(row, 7.0)
    before = counted()
    torch.cuda.set_sync_debug_mode("error")
    for row in rows:
        row_pass(row, 7.0)
    torch.cuda.set_sync_debug_mode("default")
    counts = [now - then for now, then in zip(counted(), before, strict=True)]
    return {**row_pass.described(), "rows": len(rows), "kernels": counts[KERNEL] + counts[PRODUCT], "waits": counts[WAIT],
            "graphs": counts[GRAPH]}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({"bf16": run(False), "nf4": run(True)}))
