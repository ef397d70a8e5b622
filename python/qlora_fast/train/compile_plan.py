"""Whether compiling the layers of a run pays, as far as that is known before it begins: ``torch_compile: auto``. No torch at import.

Compiling costs its time once; what it saves is time that Python takes to launch the operations of a layer, for each layer
and row. Where our kernels compute the layers, and on a CPU, there is nothing to save (BENCHMARKS.md has the figures).
"""

from __future__ import annotations

import math

import numpy as np

from qlora_fast.config import Config
from qlora_fast.data.plan import EpochPlan

COMPILING_S = 30.0
"""Seconds that a layer takes to compile, forward and backward: 25–35 on one core of the null GPU's host."""
SAVED_S = 0.001
"""Seconds of Python that compiled code saves a layer and row: 2.1 → 1.0 ms in bf16 and 3.4 → 1.5 ms in NF4 there."""


def least_rows(layers: int) -> int:
    """Rows of a device from which on compiling saves more than it costs."""
    return math.ceil(COMPILING_S / (SAVED_S * max(1, layers)))


def rows_of(plan: EpochPlan, updates: int, world: int) -> int:
    """Rows that each device runs in so many updates, by the plan of one epoch."""
    rows = np.diff(plan.update_offsets)
    return round(updates * float(np.ceil(rows / world).mean()))


def against(config: Config, *, gpu: bool, kernels: bool, layers: int, rows: int) -> str | None:
    """Why ``auto`` does not compile, or None.

    Args:
        kernels: whether our kernels compute the model's layers. rows: that one device runs.
    """
    if not gpu:
        return "on a CPU compiled layers are not faster"
    if config.kernels == "off":
        return "kernels: off"
    if kernels:
        return "our kernels compute the layers"
    least = least_rows(layers)
    if rows < least:
        return f"it takes about {COMPILING_S:.0f} s and pays from about {least:,} rows on; there are {rows:,}"
    return None
