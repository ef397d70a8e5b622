"""Memory of a run, measured: what its parts hold, what a row's activations take, and what there is."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from torch import Tensor, nn

from qlora_fast.data.batch import Row
from qlora_fast.model import host
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.frozen import rounded_bytes
from qlora_fast.model.streamed.hooks import stream_of
from qlora_fast.train.forward import Forward
from qlora_fast.train.optimizer import AdamW

_ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING")


def parts(model: nn.Module, adapter: Adapter, optimizer: AdamW) -> dict[str, int]:
    """Bytes of the frozen weights (and of those among them that are quantized, with their scales), of the adapter with its
    gradient, and of the optimizer."""
    frozen = [p for p in model.parameters() if not p.requires_grad] + list(model.buffers())
    quantized = sum(_quantized_bytes(module) for module in model.modules())
    plain = [p for p in frozen if type(p).__name__ not in ("Params4bit", "Int8Params")]
    weights = sum(p.nbytes for p in plain) + quantized + rounded_bytes(model)
    if (stream := stream_of(model)) is not None:
        # What is here of them: this process's own part, and the layers that are being used.
        streamed = sum(unit.nbytes for unit in stream.units)
        here = max(weights - streamed, 0) + stream.source.device_bytes + stream.nbytes
        weights, quantized = here, quantized * here // max(weights, 1)
    return {
        "weights": weights,
        "quantized_weights": quantized,
        "adapter": adapter.nbytes(),
        "optimizer": optimizer.nbytes(),
    }


def peak(device: torch.device) -> int:
    """The most that was in use at any time: on a GPU by torch, on a CPU by the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return host.peak_resident()


def available(device: torch.device) -> int:
    """Bytes that can still be allocated, on a CPU within the limits of its container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return host.memory().available


def grow_segments(device: torch.device) -> bool:
    """Let torch's allocator grow its blocks in place: rows of many sizes would otherwise leave gaps that nothing fits in.

    To be called before anything is allocated. Settings that the user gave torch stay as they are.

    Returns:
        Whether it was switched on.
    """
    if device.type != "cuda" or sys.platform != "linux" or any(name in os.environ for name in _ALLOCATOR_SETTINGS):
        return False
    set_settings = getattr(torch._C, "_accelerator_setAllocatorSettings", None) or getattr(
        torch._C, "_cuda_cudaCachingAllocator_set_allocator_settings", None
    )
    if set_settings is None:
        return False
    set_settings("expandable_segments:True")
    return True


def activations(forward: Forward, row: Row) -> int:
    """Bytes that autograd keeps of a row for its backward pass: counted, not estimated.

    They grow with the row's tokens, so a short row tells what a long one will take.
    """
    standing = {t.untyped_storage()._cdata for t in (*forward.model.parameters(), *forward.model.buffers())}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in standing:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    devices = [] if forward.device.type == "cpu" else [forward.device]
    with torch.random.fork_rng(devices), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = forward.loss_sum(row)
    del loss
    return sum(kept.values())


def _quantized_bytes(module: nn.Module) -> int:
    kind = type(module).__name__
    if kind not in ("Linear4bit", "Linear8bitLt") or hasattr(module, "base_layer"):
        return 0
    layer: Any = module
    state = getattr(layer.weight, "quant_state", None)
    scales = [getattr(getattr(layer, "state", None), "SCB", None)]
    if state is not None:
        inner = state.state2
        scales += [state.absmax, state.code, state.offset]
        scales += [inner.absmax, inner.code] if inner is not None else []
    return int(layer.weight.nbytes + sum(t.nbytes for t in scales if isinstance(t, Tensor)))
