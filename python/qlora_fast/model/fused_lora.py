"""Lets PEFT's plain LoRA layers compute by :mod:`~qlora_fast.model.projections`.

The layers stay PEFT's own, with their names and their way of saving; only what they compute with is another. Whatever is not
plain (DoRA, an adapter on an embedding, a bias in the adapter) is left as it is. Clearing a layer's ``lora_variant`` gives
PEFT's own arithmetic back.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qlora_fast.model.frozen import Frozen
from qlora_fast.model.patched_class import patch_class
from qlora_fast.model.products import TORCH, Products
from qlora_fast.model.projections import ADAPTER, FusedLora, base_of, projected
from qlora_fast.model.streamed.hooks import comes_by_a_stream


def fuse(model: nn.Module, *, kernels: bool = False, products: Products = TORCH) -> int:
    """Fuse each plain LoRA layer of a PEFT model on its own; returns how many there are.

    Args:
        kernels: whether 4-bit weights are made by our own program. products: by which library the frozen layers multiply.
    """
    plain = _plain_types()
    fused = 0
    for module in model.modules():
        if type(module) not in plain:
            continue
        layer: Any = module
        if ADAPTER in layer.lora_variant or layer.lora_bias.get(ADAPTER):
            continue
        if comes_by_a_stream(base_of(module)):
            continue  # its weight is there around a call of the layer itself, which PEFT makes
        layer.lora_variant[ADAPTER] = FusedLora()
        layer.frozen = (Frozen.of(base_of(module), kernels=kernels, products=products),)
        patch_class(module, _Fused)
        fused += 1
    if products.exact != "torch" or products.training != "torch":
        _fuse_frozen(model, products)
    return fused


def _fuse_frozen(model: Any, products: Products) -> None:
    """Let the frozen layers without an adapter, and those below an adapter that PEFT computes, multiply the same way.

    Not the head: it runs over a few positions only, which :mod:`qlora_fast.train.loss` sees to.
    """
    head = model.get_output_embeddings()
    for module in model.modules():
        if type(module) is nn.Linear and module is not head and Frozen.of(module, kernels=False) is not None:
            layer: Any = module
            layer.products = products
            patch_class(module, _FusedFrozen)


class _Fused:
    """The ``forward`` of a fused layer."""

    def forward(self: Any, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        out = None if arguments or options else projected((self,), self.frozen, x)
        if out is not None:
            return out[0]
        result: Tensor = super().forward(x, *arguments, **options)  # type: ignore[misc]
        return result


class _FusedFrozen:
    """The ``forward`` of a frozen layer of torch. What it multiplies with is not stored: it would hold the layer that holds it."""

    def forward(self: Any, x: Tensor) -> Tensor:
        out = projected((self,), (Frozen(self, kernels=False, products=self.products),), x)
        if out is not None:
            return out[0]
        result: Tensor = super().forward(x)  # type: ignore[misc]
        return result


def _plain_types() -> set[type[nn.Module]]:
    from peft.tuners import lora

    # The quantized ones are there where bitsandbytes is.
    names = ("Linear", "Linear4bit", "Linear8bitLt")
    return {getattr(lora, name) for name in names if hasattr(lora, name)}
