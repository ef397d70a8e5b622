"""A program for the null GPU: layers compiled by inductor for a model that our kernels do not know. Prints one JSON object.

Its Triton programs are compiled for the GPU that is pretended and launched through its driver; rows run by them, and then by
CUDA graphs of them.

    python tests/nullgpu/stubs.py -- python tests/nullgpu/compiled.py NUMBERS …
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch._dynamo as dynamo  # noqa: E402
from benches.gpu.shapes import make_data, quantize  # noqa: E402
from benches.gpu.step import SPEC  # noqa: E402
from transformers import Olmo2Config, Olmo2ForCausalLM  # noqa: E402

from nullgpu.replay import GPU, KERNEL, PRODUCT, WAIT, Recorder, counted  # noqa: E402
from qlora_fast.data.batch import packed_row  # noqa: E402
from qlora_fast.data.rung import ladder, size_of  # noqa: E402
from qlora_fast.model.attention import NAME  # noqa: E402
from qlora_fast.model.compiled import CompiledLayers, layers_to_compile, missing  # noqa: E402
from qlora_fast.model.flat_adapter import Adapter  # noqa: E402
from qlora_fast.model.lora import add_lora, keep_activations, recompute  # noqa: E402
from qlora_fast.train.forward import Forward  # noqa: E402
from qlora_fast.train.graphs import Graphs  # noqa: E402
from qlora_fast.train.row_pass import Eager  # noqa: E402

LAYERS, VOCAB = 5, 512


def model_of(numbers: str) -> Any:
    config = Olmo2Config(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=512, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config._attn_implementation = NAME
    base = Olmo2ForCausalLM(config).to(GPU, torch.bfloat16).requires_grad_(False).eval()
    return add_lora(quantize(base) if numbers == "nf4" else base, SPEC, seed=0)


def launched(row_pass: Any, adapter: Adapter, rows: list[Any]) -> dict[str, float]:
    """Launches, waits and milliseconds of Python a row."""
    before, began = counted(), time.process_time()
    for row in rows:
        adapter.discard()
        row_pass(row, 7.0)
    seconds = time.process_time() - began
    counts = [now - then for now, then in zip(counted(), before, strict=True)]
    each = len(rows)
    return {"launches": (counts[KERNEL] + counts[PRODUCT]) / each, "waits": counts[WAIT], "ms": 1000 * seconds / each}


def run(numbers: str) -> dict[str, Any]:
    model = model_of(numbers)
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "data", 400, VOCAB)
    rows = [packed_row(data, range(n * 30, n * 30 + 10 + n)) for n in range(10)]
    adapter, forward = Adapter(model), Forward(model, GPU)
    forward.plain_head = True  # asked by comparing numbers
    row_pass = Eager(forward, adapter)
    launched(row_pass, adapter, rows)
    found: dict[str, Any] = {"missing": missing(GPU), "eager": launched(row_pass, adapter, rows)}
    dynamo.utils.counters.clear()
    layers = CompiledLayers(layers_to_compile(model), whole=True)
    began = time.perf_counter()
    launched(row_pass, adapter, rows)
    found["seconds"] = time.perf_counter() - began
    found["graphs"] = dynamo.utils.counters["stats"]["unique_graphs"]
    found["compiled"] = launched(row_pass, adapter, rows)
    recompute(model)
    launched(row_pass, adapter, rows)
    found["recomputed"] = launched(row_pass, adapter, rows)
    keep_activations(model)
    found["breaks"] = sum(dynamo.utils.counters["graph_break"].values())
    replays = Graphs(forward, adapter, ladder(map(size_of, rows), int(data.lengths.max())), Recorder())
    for _ in range(2):
        launched(replays, adapter, rows)
    found["replayed"] = launched(replays, adapter, rows)
    return {**found, "cuda_graphs": replays.described(), "on": layers.on, "problem": layers.problem}


if __name__ == "__main__":
    print(json.dumps({numbers: run(numbers) for numbers in sys.argv[1:]}))
