"""Where a chat keeps its base model: on one GPU, if it fits; else on several, layer by layer; else in main memory.

Several GPUs each hold some of the layers, and a token passes through all of them: the memory adds up, the speed does not. From
main memory every layer is copied to the GPU for every token: an answer takes as many seconds per token as the base has bytes
divided by the link's rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from qlora_fast.model.load import Quantization
from qlora_fast.model.memory_estimate import Method
from qlora_fast.model.shapes import known_shape
from qlora_fast.model.sharded_memory import base_bytes

Place = Literal["device", "devices", "main memory"]
_FIT = 0.85
"""Share of the free memory that the base may take; the rest is for the cache of keys and values."""


def place_of(base: str, dtype: torch.dtype, device: torch.device, quantization: Quantization | None) -> Place:
    """Where to load a base model; ``device`` where its size is not known without loading it."""
    shape = known_shape(base)
    if device.type == "cpu" or shape is None:
        return "device"
    double = quantization is not None and quantization.double
    method = Method(bits=None if quantization is None else quantization.bits, double=double, width=dtype.itemsize)
    first, needed = device.index or 0, base_bytes(shape, method)
    free = [torch.cuda.mem_get_info(first)[0]]
    if chosen(needed, free) == "device":
        return "device"  # the others are not asked: that creates a CUDA context on each
    free += [torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count()) if i != first]
    return chosen(needed, free)


def chosen(needed: int, free: Sequence[int]) -> Place:
    """Where ``needed`` bytes go.

    Args:
        free: bytes of each GPU, the preferred one first.
    """
    if needed <= _FIT * free[0]:
        return "device"
    return "devices" if len(free) > 1 and needed <= _FIT * sum(free) else "main memory"
