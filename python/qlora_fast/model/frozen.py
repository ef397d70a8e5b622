"""The weight of a frozen linear layer in the dtype that is computed in, whatever it is stored in."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qlora_fast.model.kernels import nf4


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    """A linear layer of torch, or a 4-bit one of bitsandbytes.

    Attributes:
        kernels: whether NF4 weights are made by our own program.
    """

    layer: Any
    kernels: bool

    @classmethod
    def of(cls, layer: nn.Module, *, kernels: bool) -> Frozen | None:
        """None for a layer that is neither, or that is trained."""
        if any(p.requires_grad for p in layer.parameters()):
            return None
        if type(layer) is nn.Linear or _is_four_bit(layer):
            return cls(layer, kernels)
        return None

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self.layer.bias
        return bias

    def computes_in(self, dtype: torch.dtype) -> bool:
        """Whether :meth:`weight` and the bias are of this dtype."""
        bias = self.bias
        if bias is not None and bias.dtype != dtype:
            return False
        weight = self.layer.weight
        state = getattr(weight, "quant_state", None)
        if state is None:
            return bool(weight.dtype == dtype)
        return state.dtype == dtype and self.layer.compute_dtype in (None, dtype)

    def weight(self) -> Tensor:
        """(N, D): the stored one, or one dequantized from 4 bits."""
        weight: Tensor = self.layer.weight
        state = getattr(weight, "quant_state", None)
        if state is None:
            return weight
        if self.kernels and not torch.compiler.is_compiling() and nf4.fits(state):
            return nf4.dequantize(weight, state)
        from bitsandbytes.functional import dequantize_4bit

        out: Tensor = dequantize_4bit(weight, state)
        return out


def _is_four_bit(layer: nn.Module) -> bool:
    library = sys.modules.get("bitsandbytes.nn")  # loaded where there is such a layer
    return library is not None and isinstance(layer, library.Linear4bit)
