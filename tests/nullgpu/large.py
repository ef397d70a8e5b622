"""A program for the null GPU: whole updates of models of real sizes whose base is shared by several GPUs or in main memory.

    python tests/nullgpu/large.py MODEL,BITS,DEVICES,GIB[,TOKENS] …

MODEL is a name in SHAPES; BITS 4, 8 or 16; DEVICES the GPUs that share the base, or 0 for main memory; GIB the memory that each GPU is
sold with. Everything is the package's own but two things: nothing is read from disk, and the other ranks are not there (torch's
``fake`` process group: a gather takes its memory and returns at once). Prints a JSON object for each, in bytes.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":0:0"  # no workspace: it is counted with CUDA's context
os.environ["NULLGPU_LARGE_COPIES"] = "0"  # a base in pinned memory stays untouched, and takes none of this machine's

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benches.gpu.shapes import make_data, samples_of  # noqa: E402

from qlora_fast.config import of  # noqa: E402
from qlora_fast.data.batch import Row, packed_row  # noqa: E402
from qlora_fast.model.flat_adapter import Adapter  # noqa: E402
from qlora_fast.model.load import Quantization  # noqa: E402
from qlora_fast.model.lora import LoraSpec, add_lora  # noqa: E402
from qlora_fast.model.memory_estimate import CONTEXT, Memory, Shape  # noqa: E402
from qlora_fast.model.patch import report_of  # noqa: E402
from qlora_fast.model.shapes import SHAPES  # noqa: E402
from qlora_fast.model.sharded_memory import on_each, planned  # noqa: E402
from qlora_fast.model.streamed import load  # noqa: E402
from qlora_fast.model.streamed.gather import Gathered, Share  # noqa: E402
from qlora_fast.model.streamed.pinned import Pinned  # noqa: E402
from qlora_fast.train import memory_usage  # noqa: E402
from qlora_fast.train.forward import Forward  # noqa: E402
from qlora_fast.train.optimizer import AdamW, AdamWOptions  # noqa: E402

GPU = torch.device("cuda", 0)
BF16 = torch.bfloat16


class NoFiles:
    """Weights of the right shapes that are on the device and nowhere else."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        self._shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def read(self, name: str) -> Tensor:
        return torch.empty(self._shapes[name], dtype=BF16, device=GPU)

    def pieces(self, name: str, shape: torch.Size, size: int) -> Iterator[Tensor]:
        assert tuple(shape) == self._shapes[name]
        for start in range(0, shape.numel(), size):
            yield torch.empty(min(size, shape.numel() - start), dtype=BF16, device=GPU)

    def read_into(self, name: str, out: Tensor) -> None:
        assert tuple(out.shape) == self._shapes[name]


def config_of(name: str) -> dict[str, Any]:
    """What stands in config.json of a model of SHAPES."""
    shape = SHAPES[name]
    config = {
        "model_type": name.partition("-")[0].removesuffix(".5"), "num_hidden_layers": shape.layers, "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn, "vocab_size": shape.vocab, "tie_word_embeddings": shape.tied,
        "max_position_embeddings": 32768, "torch_dtype": "bfloat16",
    }  # fmt: skip
    assert Shape.of(config) == shape
    return config


def row_of(shape: Shape, tokens: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "data", max(8, tokens // 40), shape.vocab)
        return packed_row(data, samples_of(data, tokens))


def base_of(folder: Path, source: Gathered | Pinned, bits: int, devices: int) -> nn.Module:
    quantization = None if bits == 16 else Quantization(bits=bits)
    return load.load_streamed(
        str(folder), source, dtype=BF16, device=GPU, quantization=quantization, multiple=max(1, devices)
    )


def source_of(devices: int) -> Gathered | Pinned:
    if not devices:
        return Pinned()
    if dist.is_initialized():
        dist.destroy_process_group()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=devices)
    return Gathered(Share(dist.group.WORLD, 0, devices, "world"))


def measured(name: str, bits: int, devices: int, gib: int, tokens: int) -> dict[str, Any]:
    """Peaks of loading and of two updates, beside what is estimated."""
    shape, row = SHAPES[name], row_of(SHAPES[name], tokens)
    settings = of(bf16=True, lora_rank=8, **({} if bits == 16 else {"quantization_bit": bits}))
    method = planned(settings, row.input_ids.size, BF16.itemsize)
    told: Memory = on_each(shape, method, max(1, devices), offload=not devices)
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (gib * 2**30 - CONTEXT) / total))
    assert torch.cuda.memory_allocated() < 1 << 20, "nothing is left of the case before"
    torch.cuda.reset_peak_memory_stats()
    source = source_of(devices)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config_of(name)))
        base = base_of(Path(folder), source, bits, devices)
    loading = torch.cuda.max_memory_allocated()
    found = {"loading": loading, "estimated": told.total - told.context, "row": row.input_ids.size, "fits": False}
    try:
        model = add_lora(base, LoraSpec(8, 16), seed=0, checkpointing=True)
        adapter, forward = Adapter(model), Forward(model, GPU)
        forward.plain_head = True  # asked by comparing numbers, of which there are none here
        optimizer = AdamW(adapter, AdamWOptions(), kernels=report_of(model).kernels)
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            forward.loss_sum(row).backward()  # type: ignore[no-untyped-call]
            adapter.collect()
            optimizer.step(1e-4)
        found["fits"] = True
    except torch.OutOfMemoryError as error:
        found["error"] = str(error).splitlines()[0]
    found |= {"peak": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    if isinstance(source, Pinned):
        found |= {"host": source.host_bytes, "pinned": torch.cuda.host_memory_stats()["allocated_bytes.peak"]}
    return found


def main() -> None:
    warnings.filterwarnings("ignore", message="gemm_and_bias")  # cublasLt chooses no algorithm here
    assert memory_usage.grow_segments(GPU)
    load.TensorFiles = NoFiles  # type: ignore[assignment, misc]
    for word in sys.argv[1:]:
        name, *numbers = word.split(",")
        bits, devices, gib, tokens = [*map(int, numbers), 2048][:4]
        print(json.dumps({"model": name, "bits": bits, "devices": devices, "gib": gib,
                          **measured(name, bits, devices, gib, tokens)}), flush=True)  # fmt: skip
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
