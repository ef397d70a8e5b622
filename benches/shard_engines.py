"""Two ways to share a frozen base over ranks: torch's FSDP2, and the stream of this project. CPU, gloo.

torchrun --standalone --nproc-per-node 2 benches/shard_engines.py

Prints, for a Llama of 8 layers with a LoRA on everything, in fp32 and in NF4: seconds of a row's forward and backward (the best of
several), bytes of the base that a rank keeps, and whether loss and gradient are those of the whole base.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM

from qlora_fast.model.load import Quantization, load_base
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.model.streamed.gather import Gathered, Share
from qlora_fast.model.streamed.load import load_streamed

ROWS, TOKENS = 4, 128
CPU = torch.device("cpu")


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    with tempfile.TemporaryDirectory() as own:
        folder = [own]  # of rank 0, for all
        if rank == 0:
            save_model(Path(own))
        dist.broadcast_object_list(folder)
        compare(Path(folder[0]), rank, world)
    dist.destroy_process_group()


def save_model(folder: Path) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "vocab_size": 4096}
    LlamaForCausalLM(LlamaConfig(num_attention_heads=8, num_key_value_heads=4, **shape)).save_pretrained(folder)


def compare(path: Path, rank: int, world: int) -> None:
    """Report the engines on one model; all ranks have read it at the end."""
    for name, bits in (("fp32", None), ("nf4", Quantization())):
        for code in ("off", "auto"):
            common: dict[str, Any] = {"dtype": torch.float32, "device": CPU, "quantization": bits}
            whole = adapted(load_base(str(path), **common), code)
            expected = row(whole)
            report(rank, f"{name}, kernels: {code}, complete", whole, expected, expected, held(whole))
            source = Gathered(Share(dist.new_group(), rank, world, "world"))
            streamed = adapted(load_streamed(str(path), source, multiple=world, **common), code)
            report(rank, f"{name}, kernels: {code}, shard_base", streamed, row(streamed), expected, source.device_bytes)
            try:
                sharded = adapted(load_base(str(path), **common), code)
                fsdp(sharded)
                result = row(sharded)
                report(rank, f"{name}, kernels: {code}, FSDP2", sharded, result, expected, held(sharded))
            except Exception as error:
                if rank == 0:
                    print(f"{name}, kernels: {code}, FSDP2: {str(error).splitlines()[0][:150]}", flush=True)
            dist.barrier()


def adapted(base: nn.Module, kernels: Any) -> nn.Module:
    model = add_lora(base, LoraSpec(8, 16), seed=0, kernels=kernels)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.02, generator=generator)
    return model


def fsdp(model: Any) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    trained = {p for p in model.parameters() if p.requires_grad}
    inner = model.get_base_model()
    for layer in inner.model.layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    fully_shard(inner, mesh=mesh, ignored_params=trained)


def row(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.arange(TOKENS)[None] * 7 % 4096
    model.zero_grad()
    out = model(input_ids=ids, labels=ids, use_cache=False).loss
    out.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.requires_grad]
    return out.detach(), torch.cat(gradients)


def held(model: Any) -> int:
    total = 0
    for p in model.parameters():
        if not p.requires_grad:
            local = p.to_local() if hasattr(p, "to_local") else p
            total += local.nbytes
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None) or getattr(module, "quant_state", None)
        if state is not None and not hasattr(module, "base_layer"):
            total += state.absmax.nbytes + (state.state2.absmax.nbytes if state.state2 is not None else 0)
    return total


def report(rank: int, name: str, model: Any, result: Any, expected: Any, kept: int) -> None:
    best = min(timed(model) for _ in range(ROWS))
    same = all(torch.equal(one, other) for one, other in zip(result, expected, strict=True))
    off = float((result[1] - expected[1]).abs().max())
    if rank == 0:
        print(
            f"{name:40} {best * 1000:7.1f} ms  {kept / 1e6:7.2f} MB  {'same bits' if same else f'off by {off:.1e}'}",
            flush=True,
        )


def timed(model: Any) -> float:
    dist.barrier()
    started = time.perf_counter()
    row(model)
    dist.barrier()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
