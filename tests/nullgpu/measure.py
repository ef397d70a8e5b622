"""A program for the null GPU: the figures that the ratchets hold, as one JSON object.

python tests/nullgpu/stubs.py -- python tests/nullgpu/measure.py step|memory|graphs
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benches.gpu.product import Method, Shape, add_lora, estimate, packed_row  # noqa: E402
from benches.gpu.shapes import LARGE, SMALL, ModelShape, make_data, make_model  # noqa: E402
from benches.gpu.step import SPEC, MicroBatch  # noqa: E402

from qlora_fast.config import of  # noqa: E402
from qlora_fast.model.attention import Borders, length_step  # noqa: E402
from qlora_fast.model.varlen import path_for  # noqa: E402

WAIT = 4
"""Of the counters in stubs/nullgpu.h."""
GPU = torch.device("cuda", 0)


def waits() -> int:
    """Waits for the device so far, as the driver saw them."""
    counted = ctypes.CDLL(os.environ["LD_PRELOAD"]).nullgpu_counted
    counted.restype = ctypes.c_long
    return int(counted(WAIT))


def micro_batch(shape: ModelShape, tokens: int, checkpointing: bool = False) -> MicroBatch:
    with tempfile.TemporaryDirectory() as folder:
        batch = MicroBatch.make(Path(folder) / "data", shape, tokens, checkpointing)
    # Asked by comparing numbers, of which there are none here.
    batch.forward.plain_head = True
    batch.whole()
    return batch


def step() -> dict[str, Any]:
    """Operations of a micro-batch by part, the bytes that they touch, and waits of a whole step."""
    found: dict[str, Any] = {}
    for shape, tokens in ((SMALL, 2048), (SMALL, 8192)):
        batch = micro_batch(shape, tokens)
        parts = batch.counted()
        before = waits()
        torch.cuda.set_sync_debug_mode("error")
        batch.whole()
        torch.cuda.set_sync_debug_mode("default")
        found[f"{shape.name}, {tokens} tokens"] = {
            **{part: operations.total for part, operations in parts.items()},
            "gigabytes": round(sum(operations.bytes for operations in parts.values()) / 1e9, 1),
            "waits": waits() - before,
            "most": parts["backward"].count.most_common(3),
        }
        del batch
        torch.cuda.empty_cache()
    return found


def memory() -> dict[str, Any]:
    """The allocator's peak over a whole step, and what is estimated for it from config.json."""
    found = {}
    for shape, tokens, checkpointing in (
        (SMALL, 2048, False),
        (SMALL, 8192, False),
        (SMALL, 8192, True),
        (LARGE, 2048, False),
    ):
        batch = micro_batch(shape, tokens, checkpointing)
        torch.cuda.reset_peak_memory_stats()
        batch.whole()
        peak = torch.cuda.max_memory_allocated()
        settings = {"lora_rank": SPEC.rank, "bf16": True, "gradient_checkpointing": str(checkpointing).lower()}
        method = Method.of(of(**settings), batch.row.input_ids.size, len(batch.row.targets))
        told = estimate(Shape.of(shape.config().to_dict()), method)
        name = f"{shape.name}, {tokens} tokens{', checkpointing' if checkpointing else ''}"
        found[name] = {"peak": peak / 2**30, "estimated": (told.total - told.context) / 2**30}
        del batch
        torch.cuda.empty_cache()
    return found


def graphs() -> dict[str, Any]:
    """What torch.compile makes of one decoder layer and of its attention alone, over ten rows that all differ."""
    import torch._dynamo as dynamo

    shape = ModelShape("one layer", 256, 512, 1, 4, 2, tied=True, vocab=512, head_dim=64)
    model = add_lora(make_model(shape, GPU, torch.bfloat16), SPEC, seed=0).to(torch.bfloat16)
    layer = model.get_base_model().model.layers[0]  # type: ignore[operator]
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "data", 400, shape.vocab)
    rows = [packed_row(data, range(n * 30, n * 30 + 10 + n)) for n in range(10)]
    path_for(GPU, torch.bfloat16, shape.head_dim)  # a run has tried it long before
    found = {}
    for name, call in (("attention", attention_alone), ("layer", layer)):
        dynamo.reset()
        dynamo.utils.counters.clear()
        compiled = torch.compile(call, backend="eager", dynamic=True)
        for row in rows:
            hidden, options = layer_inputs(shape, row)
            compiled(hidden, **options)
        broken = dynamo.utils.counters["graph_break"]
        found[name] = {
            "graphs": dynamo.utils.counters["stats"]["unique_graphs"],
            "breaks": sum(broken.values()),
            "why": sorted({str(reason).splitlines()[0] for reason in broken}),
        }
    return found


def attention_alone(
    hidden: torch.Tensor, *, position_embeddings: Any, attention_mask: None, **options: Any
) -> torch.Tensor:
    """The attention of a layer with 4 heads on 2, without its projections."""
    from qlora_fast.model.attention import packed_attention

    heads = hidden.view(1, -1, 4, 64).transpose(1, 2)
    return packed_attention(torch.nn.Identity(), heads, heads[:, :2], heads[:, :2], None, **options)[0]


def layer_inputs(shape: ModelShape, row: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    tokens = row.input_ids.size
    turned = torch.zeros(1, tokens, shape.head_dim, device=GPU, dtype=torch.bfloat16)
    hidden = torch.zeros(1, tokens, shape.hidden, device=GPU, dtype=torch.bfloat16, requires_grad=True)
    return hidden, {
        "position_embeddings": (turned, turned), "attention_mask": None, "borders": Borders(row.cu_seqlens),
        "cu_seq_lens_q": torch.from_numpy(np.asarray(row.cu_seqlens)).to(GPU), "max_length_q": length_step(row.max_seqlen),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({"step": step, "memory": memory, "graphs": graphs}[sys.argv[1]]()))
