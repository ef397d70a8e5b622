"""A program for the null GPU: updates over a base in main memory, and the memory that they take beside the estimate of it.

    python tests/nullgpu/offload.py LAYERS TOKENS

Prints one JSON object, in bytes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import tiny  # noqa: E402
from prepared import write_prepared  # noqa: E402
from qlora_fast.data.batch import packed_row  # noqa: E402
from qlora_fast.data.dataset import open_prepared  # noqa: E402
from qlora_fast.model.flat_adapter import Adapter  # noqa: E402
from qlora_fast.model.lora import LoraSpec, add_lora  # noqa: E402
from qlora_fast.model.memory_estimate import CONTEXT, Method, Shape  # noqa: E402
from qlora_fast.model.sharded_memory import on_each  # noqa: E402
from qlora_fast.model.streamed.hooks import stream_of  # noqa: E402
from qlora_fast.model.streamed.load import load_streamed  # noqa: E402
from qlora_fast.model.streamed.pinned import Pinned  # noqa: E402
from qlora_fast.train.forward import Forward  # noqa: E402
from qlora_fast.train.optimizer import AdamW, AdamWOptions  # noqa: E402

GPU = torch.device("cuda", 0)


def main(layers: int, tokens: int) -> None:
    shape = {"hidden_size": 512, "intermediate_size": 2048, "head_dim": 64, "num_hidden_layers": layers}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        tiny.save(tiny.qwen3(**shape).bfloat16(), place / "model")
        source = Pinned()
        base = load_streamed(str(place / "model"), source, dtype=torch.bfloat16, device=GPU)
        loading = torch.cuda.max_memory_allocated()
        ids = [(i * 7) % 90 + 1 for i in range(tokens)]
        row = packed_row(open_prepared(write_prepared(place / "p", [(ids, [(tokens // 2, tokens)])])), [0])
        known = Shape.of(base.config.to_dict())  # type: ignore[union-attr]
        model = add_lora(base, LoraSpec(4, 8), seed=0, checkpointing=True, kernels="off")
        adapter = Adapter(model)
        optimizer, forward = AdamW(adapter, AdamWOptions()), Forward(model, GPU)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            forward.loss_sum(row).backward()  # type: ignore[no-untyped-call]
            adapter.collect()
            optimizer.step(1e-4)
    method = Method(tokens=tokens, supervised=len(row.targets), rank=4, checkpointing=True)
    estimated = on_each(known, method, offload=True)
    stream = stream_of(model)
    assert stream is not None
    found = {
        "peak": torch.cuda.max_memory_allocated(),
        "estimated": estimated.total - CONTEXT,
        "complete": on_each(known, method).total - CONTEXT,
        "loading": loading,
        "largest": max(unit.nbytes for unit in stream.units),
        "host": source.host_bytes,
        "base": on_each(known, method).weights,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
