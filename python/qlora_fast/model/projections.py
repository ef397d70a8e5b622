"""Linear layers that read the same input, with their adapters, as one step of autograd.

Layer i of a group computes yᵢ = x·Wᵢᵀ + biasᵢ + sᵢ·(x·Aᵢᵀ)·Bᵢᵀ. The matrices Aᵢ stand one after the other (in the flat
adapter they do so in memory), so that all x·Aᵢᵀ are one product; each result is added to the frozen layer's in place::

    H = x·Aᵀ                       (T, ΣR), A = [A₁; A₂; …]
    yᵢ = x·Wᵢᵀ + biasᵢ, then yᵢ += sᵢ·Hᵢ·Bᵢᵀ

and backward, with Gᵢ = ∂yᵢ::

    Ḣᵢ = sᵢ·Bᵢᵀ·Gᵢᵀ                (ΣR, T), laid out the way that a BLAS is fast at
    ∂x = Σ Gᵢ·Wᵢ + Ḣᵀ·A            ∂A += Ḣ·x        ∂Bᵢ += sᵢ·Gᵢᵀ·Hᵢ

∂A and ∂B are added to the parameters' ``grad`` by the products themselves where there is one (the flat adapter puts it
there) and the parameter has no hook; else autograd gets them as usual. A quantized Wᵢ is dequantized again in the backward.

With dropout x is another one for the adapter than for the frozen layer, and differs from layer to layer: a group is then
run a layer at a time. What is not a plain LoRA layer (DoRA, a bias of its own, merged, disabled, several adapters) is left
to PEFT.

Legend: T tokens, D and N widths in and out, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from qlora_fast.model.frozen import Frozen

ADAPTER = "default"


class FusedLora:
    """Marks a PEFT layer as plain, in its ``lora_variant``; PEFT calls it where the product below does not apply."""

    @staticmethod
    def forward(module: Any, *, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        a, b = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        dropped, scale = module.lora_dropout[active_adapter](x), module.scaling[active_adapter]
        if result.dtype != dropped.dtype or result.dtype != a.dtype:
            cast: Tensor = result + (dropped @ a.t() @ b.t()) * scale
            return cast
        low = linear(dropped.reshape(-1, dropped.shape[-1]), a)
        out = torch.addmm(result.reshape(-1, result.shape[-1]), low, b.t(), alpha=scale)
        return out.view(result.shape)


class Projections:
    """A group of layers; :meth:`run` gives their outputs in order, or None where PEFT has to compute them.

    Args:
        layers: PEFT's LoRA layers or frozen linear ones, with inputs of the same width.
    """

    def __init__(self, layers: Sequence[nn.Module], *, kernels: bool = False) -> None:
        self.layers = tuple(layers)
        self.frozen = tuple(Frozen.of(base_of(layer), kernels=kernels) for layer in layers)

    def run(self, x: Tensor) -> tuple[Tensor, ...] | None:
        """All outputs for an input of any leading shape."""
        return projected(self.layers, self.frozen, x)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """All outputs, one layer at a time where they cannot be had at once."""
        return self.run(x) or tuple(layer(x) for layer in self.layers)


def projected(layers: Sequence[nn.Module], frozen: tuple[Frozen | None, ...], x: Tensor) -> tuple[Tensor, ...] | None:
    """The outputs of layers for one input, or None where PEFT has to compute them. ``frozen`` are their frozen layers."""
    scales: list[float | None] = []
    matrices: list[Tensor] = []
    dropouts: list[Any] = []
    for layer, base in zip(layers, frozen, strict=True):
        own = _adapter(layer, x.dtype)
        if own is None or base is None or not base.computes_in(x.dtype):
            return None
        scales.append(_scale(layer))
        matrices.extend(own)
        dropouts.append(_dropout(layer))
    dropped: Tensor | None = None
    if any(dropout is not None for dropout in dropouts):
        if len(layers) > 1:
            return None
        dropped = dropouts[0](x)
    out: tuple[Tensor, ...] = _Product.apply(x, dropped, frozen, tuple(scales), torch.is_grad_enabled(), *matrices)
    return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        frozen: tuple[Frozen, ...],
        scales: tuple[float | None, ...],
        training: bool,
        *adapters: Tensor,
    ) -> tuple[Tensor, ...]:
        """``adapters``: A and B of each layer that has a scale. ``training``: whether a gradient will be asked for."""
        x_TD = x.reshape(-1, x.shape[-1])  # noqa: N806
        seen_TD = x_TD if dropped is None else dropped.reshape(x_TD.shape)  # noqa: N806
        ranks, a_RD = _joined(adapters[::2])  # noqa: N806
        h_TR = seen_TD.mm(a_RD.t()) if ranks else None  # noqa: N806
        lows = iter(zip(torch.split(h_TR, ranks, 1), adapters[1::2], strict=True) if h_TR is not None else ())
        outs = []
        for layer, scale in zip(frozen, scales, strict=True):
            y_TN = layer.forward(x_TD, layer.way(training=training))  # noqa: N806
            if scale is not None:
                low, b_NR = next(lows)  # noqa: N806
                y_TN.addmm_(low, b_NR.t(), alpha=scale)
            outs.append(y_TN.view(*x.shape[:-1], y_TN.shape[-1]))
        ctx.save_for_backward(seen_TD, h_TR, *adapters)
        ctx.frozen, ctx.scales, ctx.shape, ctx.drops = frozen, scales, x.shape, dropped is not None
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        seen_TD, h_TR, *adapters = ctx.saved_tensors  # noqa: N806
        grads = [g.reshape(-1, g.shape[-1]) for g in upstream]
        ranks, a_RD = _joined(adapters[::2])  # noqa: N806
        adapted = [(g, s) for g, s in zip(grads, ctx.scales, strict=True) if s is not None]
        gh_RT = seen_TD.new_empty(sum(ranks), len(seen_TD))  # noqa: N806
        for part, (g_TN, scale), b_NR in zip(torch.split(gh_RT, ranks), adapted, adapters[1::2], strict=True):  # noqa: N806
            part.addmm_(b_NR.t(), g_TN.t(), beta=0, alpha=scale)
        grad_x = grad_dropped = None
        if ctx.needs_input_grad[0]:
            grad_x = _through_frozen(grads, ctx.frozen)
            if ranks and not ctx.drops:
                grad_x.addmm_(gh_RT.t(), a_RD)
            grad_x = grad_x.view(ctx.shape)
        if ctx.needs_input_grad[1]:
            grad_dropped = (gh_RT.t() @ a_RD).view(ctx.shape)
        own = [None] * len(adapters) if not ranks else _adapter_grads(adapters, ranks, gh_RT, seen_TD, h_TR, adapted)
        return grad_x, grad_dropped, None, None, None, *own


def _through_frozen(grads: list[Tensor], frozen: tuple[Frozen, ...]) -> Tensor:
    """Σ Gᵢ·Wᵢ."""
    total = frozen[0].through(grads[0], frozen[0].way(training=True))
    for g_TN, layer in zip(grads[1:], frozen[1:], strict=True):  # noqa: N806
        way = layer.way(training=True)
        if way == "torch":
            total.addmm_(g_TN, layer.weight())
        else:
            total.add_(layer.through(g_TN, way))
    return total


def _adapter_grads(
    adapters: Sequence[Tensor],
    ranks: list[int],
    gh_RT: Tensor,  # noqa: N803
    seen_TD: Tensor,  # noqa: N803
    h_TR: Tensor,  # noqa: N803
    adapted: list[tuple[Tensor, float]],
) -> list[Tensor | None]:
    """Gradients of A and B by layer; None for what was added where it belongs."""
    out: list[Tensor | None] = [None] * len(adapters)
    a_grads = [_own_grad(a) for a in adapters[::2]]
    joined = _in_one_piece([g for g in a_grads if g is not None]) if None not in a_grads else None
    if joined is not None:
        joined.addmm_(gh_RT, seen_TD)
    else:
        for i, (grad, part) in enumerate(zip(a_grads, torch.split(gh_RT, ranks), strict=True)):
            if grad is None:
                out[2 * i] = part @ seen_TD
            else:
                grad.addmm_(part, seen_TD)
    for i, (low, (g_TN, scale), b) in enumerate(zip(torch.split(h_TR, ranks, 1), adapted, adapters[1::2], strict=True)):  # noqa: N806
        grad = _own_grad(b)
        if grad is None:
            out[2 * i + 1] = torch.addmm(low.new_empty(()), low.t(), g_TN, beta=0, alpha=scale).t()
        elif grad.is_cuda:
            grad.addmm_(g_TN.t(), low, alpha=scale)
        else:  # a BLAS of a CPU is six times as fast at a wide result as at a tall one
            grad.add_((low.t() @ g_TN).t(), alpha=scale)
    return out


def _own_grad(parameter: Tensor) -> Tensor | None:
    """The buffer that a gradient may be added to at once: nothing else is to see it first, and no graph is being compiled,
    which would have to be told of the buffer."""
    if torch.compiler.is_compiling():
        return None
    hooked = parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
    grad = parameter.grad
    return None if hooked or grad is None or grad.dtype != parameter.dtype else grad


def _joined(matrices: Sequence[Tensor]) -> tuple[list[int], Tensor]:
    """(rows of each, all of them as one matrix); without a copy where they lie one after the other."""
    ranks = [len(m) for m in matrices]
    if not matrices:
        return ranks, torch.empty(0)
    one = None if torch.compiler.is_compiling() else _in_one_piece(matrices)
    return ranks, torch.cat(list(matrices)) if one is None else one


def _in_one_piece(matrices: Sequence[Tensor]) -> Tensor | None:
    """A view of matrices (Rᵢ, D) that lie one after the other in one buffer, as (ΣRᵢ, D); None if they do not."""
    first = matrices[0]
    if len(matrices) == 1:
        return first
    storage, place = first.untyped_storage().data_ptr(), first.storage_offset()
    for matrix in matrices:
        if (
            not matrix.is_contiguous()
            or matrix.storage_offset() != place
            or matrix.untyped_storage().data_ptr() != storage
        ):
            return None
        place += matrix.numel()
    return first.detach().as_strided((sum(len(m) for m in matrices), first.shape[1]), (first.shape[1], 1))


def base_of(layer: nn.Module) -> nn.Module:
    """The frozen layer inside of a PEFT one; a layer without an adapter itself."""
    base: nn.Module = getattr(layer, "base_layer", layer)
    return base


def is_plain(layer: Any) -> bool:
    """Whether a layer of PEFT is marked (see :func:`qlora_fast.model.fused_lora.fuse`) and runs its one adapter."""
    return (
        isinstance(layer.lora_variant.get(ADAPTER), FusedLora)
        and not layer.disable_adapters
        and not layer.merged_adapters
        and list(layer.active_adapters) == [ADAPTER]
    )


def _adapter(layer: Any, dtype: torch.dtype) -> tuple[Tensor, ...] | None:
    """(A, B) of a layer, () if it has none, None if PEFT has to compute it."""
    if not hasattr(layer, "lora_variant"):
        return ()
    if not is_plain(layer):
        return None
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return (a, b) if a.dtype == b.dtype == dtype else None


def _scale(layer: Any) -> float | None:
    return float(layer.scaling[ADAPTER]) if hasattr(layer, "lora_variant") else None


def _dropout(layer: Any) -> nn.Module | None:
    """The dropout of a layer where it drops anything."""
    if not hasattr(layer, "lora_variant"):
        return None
    dropout: nn.Module = layer.lora_dropout[ADAPTER]
    return dropout if dropout.training and getattr(dropout, "p", 0.0) > 0 else None
