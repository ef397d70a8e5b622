"""A frozen linear layer: its weight in the dtype that is computed in, whatever it is stored in, and its products."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qlora_fast.model import products
from qlora_fast.model.kernels import nf4
from qlora_fast.model.products import TORCH, Products, Way


@dataclass(slots=True, eq=False)
class Frozen:
    """A linear layer of torch, or a 4-bit one of bitsandbytes.

    Attributes:
        kernels: whether NF4 weights are made by our own program.
        products: by which library it multiplies.
    """

    layer: Any
    kernels: bool
    products: Products = TORCH

    @classmethod
    def of(cls, layer: nn.Module, *, kernels: bool, products: Products = TORCH) -> Frozen | None:
        """None for a layer that is neither, or that is trained."""
        if any(p.requires_grad for p in layer.parameters()):
            return None
        if type(layer) is nn.Linear or _is_four_bit(layer):
            return cls(layer, kernels, products)
        return None

    def way(self, *, training: bool) -> Way:
        """The way of multiplying in a pass with a gradient, or in one without."""
        if torch.compiler.is_compiling():
            return "torch"
        # A weight that is dequantized for each product is not rounded again.
        return self.products.training if training and not self._four_bit() else self.products.exact

    def forward(self, x_TD: Tensor, way: Way) -> Tensor:  # noqa: N803
        """x·Wᵀ + bias."""
        return products.forward(way, x_TD, self._weight(way), self.bias)

    def through(self, g_TN: Tensor, way: Way) -> Tensor:  # noqa: N803
        """g·W."""
        return products.through(way, g_TN, self._weight(way))

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
        if not self._four_bit():
            return weight
        state: Any = weight.quant_state  # type: ignore[attr-defined]
        if self.kernels and not torch.compiler.is_compiling() and nf4.fits(state):
            return nf4.dequantize(weight, state)
        from bitsandbytes.functional import dequantize_4bit

        out: Tensor = dequantize_4bit(weight, state)
        return out

    def _weight(self, way: Way) -> Tensor:
        if way != "bf16":
            return self.weight()
        return rounded_weight(self.layer)

    def _four_bit(self) -> bool:
        return getattr(self.layer.weight, "quant_state", None) is not None


def rounded_weight(layer: Any) -> Tensor:
    """The weight of a layer in bf16. The layer keeps it, with the version of the weight that it was made of."""
    weight: Tensor = layer.weight
    copy: tuple[Tensor, int] | None = getattr(layer, "rounded", None)
    if copy is None or copy[1] != weight._version:
        copy = layer.rounded = (weight.detach().to(torch.bfloat16), weight._version)
    return copy[0]


def rounded_bytes(model: nn.Module) -> int:
    """Bytes of all copies that :func:`rounded_weight` made."""
    copies = (getattr(module, "rounded", None) for module in model.modules())
    return sum(copy[0].nbytes for copy in copies if copy is not None)


def _is_four_bit(layer: nn.Module) -> bool:
    library = sys.modules.get("bitsandbytes.nn")  # loaded where there is such a layer
    return library is not None and isinstance(layer, library.Linear4bit)
