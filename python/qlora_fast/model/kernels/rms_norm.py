"""RMSNorm with a frozen weight.

Forward, with the casts of transformers' ``LlamaRMSNorm`` (x, y in the model's dtype; r, x̂ in fp32)::

    r = 1 / sqrt(mean(x²) + ε)        x̂ = x · r        y = w · round(x̂)

and, with ``plus_one``, those of ``Gemma3RMSNorm``: ``y = round(x̂ · (1 + w))``.

Backward, with g = round(w · ∂y) (Gemma: (1 + w) · ∂y in fp32); the weight is frozen, so it gets no gradient::

    ∂x = round(r · (g − x̂ · mean(g · x̂)))

One instance per row. The backward computes r again from x, which it reads anyway: nothing but x is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qlora_fast.model.kernels.launch import Program, power_of_two

if TYPE_CHECKING:
    import triton.language as tl


def reference(x: Tensor, weight: Tensor, eps: float, plus_one: bool = False) -> Tensor:
    """In plain torch.

    Args:
        x: (..., N). weight: (N,), of x's dtype.
    """
    wide = x.float()
    normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    if plus_one:
        return (normal * (1.0 + weight.float())).type_as(x)
    return weight * normal.to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float, plus_one: bool = False) -> Tensor:
    """:func:`reference`, one launch each way; a compiler is given the formula."""
    if torch.compiler.is_compiling():
        return reference(x, weight, eps, plus_one)
    out: Tensor = _RmsNorm.apply(x, weight, eps, plus_one)
    return out


def forward(x: Tensor, weight: Tensor, eps: float, plus_one: bool) -> Tensor:
    """y, of x's shape. ``x`` is contiguous."""
    y = torch.empty_like(x)
    _launch(FORWARD, {"x_ptr": x, "w_ptr": weight, "y_ptr": y}, x, eps, plus_one)
    return y


def backward(upstream: Tensor, x: Tensor, weight: Tensor, eps: float, plus_one: bool) -> Tensor:
    """∂x, from ∂y and what the forward pass was given; both are contiguous."""
    grad = torch.empty_like(x)
    tensors = {"g_ptr": upstream, "x_ptr": x, "w_ptr": weight, "out_ptr": grad}
    _launch(BACKWARD, tensors, x, eps, plus_one)
    return grad


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, plus_one: bool) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.eps, ctx.plus_one = eps, plus_one
        return forward(x, weight, eps, plus_one)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight = ctx.saved_tensors
        return backward(upstream.contiguous(), x, weight, ctx.eps, ctx.plus_one), None, None, None


def _launch(program: Program, tensors: dict[str, Tensor], x: Tensor, eps: float, plus_one: bool) -> None:
    width = x.shape[-1]
    block = power_of_two(width)
    rows = x.numel() // width
    # 8 values of 16 bits are one load of 16 bytes: as many threads as that takes, at most 16 warps.
    warps = min(16, max(1, block // 256))
    program.launch((rows,), {**tensors, "n": width, "eps": eps}, {"BLOCK": block, "PLUS_ONE": plus_one}, warps)


def _rms_forward(x_ptr, w_ptr, y_ptr, n, eps, BLOCK: tl.constexpr, PLUS_ONE: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * n
    column = tl.arange(0, BLOCK)
    inside = column < n
    x = tl.load(x_ptr + start + column, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(w_ptr + column, mask=inside, other=0.0).to(tl.float32)
    normal = x * tl.rsqrt(tl.sum(x * x, 0) / n + eps)
    if PLUS_ONE:
        y = normal * (1.0 + w)
    else:
        y = normal.to(y_ptr.dtype.element_ty).to(tl.float32) * w
    tl.store(y_ptr + start + column, y.to(y_ptr.dtype.element_ty), mask=inside)


def _rms_backward(g_ptr, x_ptr, w_ptr, out_ptr, n, eps, BLOCK: tl.constexpr, PLUS_ONE: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * n
    column = tl.arange(0, BLOCK)
    inside = column < n
    g = tl.load(g_ptr + start + column, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + start + column, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(w_ptr + column, mask=inside, other=0.0).to(tl.float32)
    r = tl.rsqrt(tl.sum(x * x, 0) / n + eps)
    normal = x * r
    if PLUS_ONE:
        g = g * (1.0 + w)
    else:
        g = (g * w).to(out_ptr.dtype.element_ty).to(tl.float32)
    out = r * (g - normal * (tl.sum(g * normal, 0) / n))
    tl.store(out_ptr + start + column, out.to(out_ptr.dtype.element_ty), mask=inside)


FORWARD = Program(_rms_forward)
BACKWARD = Program(_rms_backward)
