"""A tiny run on a base that is complete, or shared out over the ranks; and torch's own way of sharing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ranks_run import SETTINGS


def base_of(folder: Path, case: str, ranks: Any = None, kind: str = "world") -> Any:
    """The model of a case, such as ``qwen3-nf4`` or ``qwen3-nf4-none``, whose last word is a packing: complete without ranks, else shared out over them."""
    import torch

    from qlora_fast.model.load import Quantization, load_base
    from qlora_fast.model.streamed.gather import Gathered
    from qlora_fast.model.streamed.load import load_streamed

    name, bits, *_ = case.split("-")
    chosen = {"fp32": None, "nf4": Quantization(), "int8": Quantization(bits=8)}[bits]
    common: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu"), "quantization": chosen}
    if ranks is None:
        return aligned(load_base(str(folder / name), **common))
    share = ranks.share(kind)
    return load_streamed(str(folder / name), Gathered(share), multiple=share.size, **common)


def aligned(model: Any) -> Any:
    """The model with each frozen tensor in memory of its own.

    Loaded, a tensor lies where the file's header lets it begin. The last bit of a product of few rows depends on whether its
    operands begin at a multiple of 64 bytes on a CPU, and those of a base that is shared out do.
    """
    from torch import nn

    for parameter in model.parameters():
        if type(parameter) is nn.Parameter:  # not those of bitsandbytes: they are decoded into memory of their own
            parameter.data = parameter.data.clone()
    return model


def shard_run(
    data: Any,
    folder: Path,
    case: str,
    ranks: Any = None,
    kind: str | None = None,
    where: Path | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> Any:
    """A run on an adapter over such a base; ``kind`` is how it is shared out."""
    from qlora_fast.model.lora import LoraSpec, add_lora
    from tiny_run import tiny_run

    base = base_of(folder, case, ranks if kind else None, kind or "world")
    model = add_lora(base, LoraSpec(4, 8, dropout), seed=0, checkpointing=case.startswith("llama"))
    packing = case.split("-")[2:] or ["exact"]
    settings = {**SETTINGS, "lr": 1e-3, "packing": packing[0], **more}
    return tiny_run(data, where, model=model, **settings, ranks=ranks)


def evaluations_of_few(run: Any, ranks: Any = None) -> list[dict[str, float]]:
    """Evaluations of one and of three samples after a run: fewer than there may be ranks."""
    import numpy as np

    from qlora_fast.train.evaluate import EvalOptions, evaluate

    options = EvalOptions(1, SETTINGS["row"], run.batches.packed, True)
    return [evaluate(run.forward, run.batches.dataset, np.arange(n), options, ranks=ranks) for n in (1, 3)]


def by_fsdp(folder: Path, case: str, ranks: Any) -> bool:
    """Whether torch's own sharding of the same base gives the same loss and gradient, bit for bit."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from qlora_fast.model.lora import LoraSpec, add_lora

    results = []
    for own in (True, False):
        # By transformers' and PEFT's own code: FSDP2 gives modules other parameters than those that our products know.
        model: Any = add_lora(base_of(folder, case, ranks if own else None), LoraSpec(4, 8), seed=0, kernels="off")
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.data.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
        if not own:
            inner, mesh = model.get_base_model(), init_device_mesh("cpu", (ranks.world,))
            for part in (*inner.model.layers, inner):
                fully_shard(part, mesh=mesh, ignored_params=set(trained))
        ids = torch.arange(24)[None] * (3 + ranks.rank) % 97
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in trained)])
    return all(torch.equal(one, other) for one, other in zip(*results, strict=True))
