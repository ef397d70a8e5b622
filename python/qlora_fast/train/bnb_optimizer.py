"""bitsandbytes' AdamW behind the same four methods as torch's: 8-bit state, or 32-bit state that pages out of a GPU.

The state of a block of 256 values shares one scale. The flat vector keeps matrices apart by that much, so no block
spans two of them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qlora_fast.config.keys.optim import Optimizer
from qlora_fast.model.load import quiet_libraries

log = logging.getLogger(__name__)

KINDS: dict[Optimizer, tuple[int, bool]] = {
    "adamw_8bit": (8, False),
    "adamw_bnb_8bit": (8, False),
    "paged_adamw_8bit": (8, True),
    "paged_adamw_32bit": (32, True),
}
"""(bits of the state, whether it is paged), by the names that transformers gives them."""


class BitsAndBytes:
    """The kernel; what to do with a gradient before it is decided elsewhere."""

    def __init__(
        self, kind: Optimizer, groups: Sequence[dict[str, Any]], betas: tuple[float, float], eps: float
    ) -> None:
        quiet_libraries()
        from bitsandbytes.optim import AdamW

        bits, paged = KINDS[kind]
        self._adam = AdamW(list(groups), lr=0.0, betas=betas, eps=eps, optim_bits=bits, min_8bit_size=0, is_paged=paged)
        if paged and groups[0]["params"][0].device.type == "cpu":
            log.info("%s: paging moves state between a GPU and the host; on a CPU it simply lies in memory", kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the same, in other words
            for g, group in enumerate(self._adam.param_groups):
                self._adam.init_state(group, group["params"][0], g, 0)

    def step(self, rates: Sequence[float], found_inf: Tensor) -> None:
        """One update, or none where ``found_inf`` is 1. It waits for the device, as this library does after each anyway."""
        if found_inf:
            return
        for group, rate in zip(self._adam.param_groups, rates, strict=True):
            group["lr"] = rate
        self._adam.step()

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{g}.{name}": torch.tensor(value) if isinstance(value, int) else value.detach().to("cpu", copy=True)
            for g, state in enumerate(self._states())
            for name, value in state.items()
            if not name.startswith("qmap")
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        for g, state in enumerate(self._states()):
            for name, value in state.items():
                if isinstance(value, int):
                    state[name] = int(tensors[f"{g}.{name}"])
                elif not name.startswith("qmap"):
                    value.copy_(tensors[f"{g}.{name}"])

    def nbytes(self) -> int:
        return sum(v.nbytes for state in self._states() for v in state.values() if isinstance(v, Tensor))

    def _states(self) -> list[dict[str, Any]]:
        return [self._adam.state[group["params"][0]] for group in self._adam.param_groups]
