"""The adapter's product, W·x + scale·B·A·x, as one step of autograd.

PEFT writes it as five operations and torch derives the backward of each. Fused, the scale rides along in a matrix
product, the result is added in place, and the thin products of the backward are laid out the way that BLAS is fast at:
about a tenth of the time of the linear layers on a CPU in fp32. The layers stay PEFT's own; this is hooked in where PEFT
lets variants of LoRA compute their output.

Legend: T tokens, D and N widths in and out, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, x: Tensor, a_RD: Tensor, b_NR: Tensor, scale: float) -> Tensor:  # noqa: N803
        x_TD = x.reshape(-1, x.shape[-1])  # noqa: N806
        h_TR = torch.addmm(x.new_empty(()), x_TD, a_RD.t(), beta=0, alpha=scale)  # noqa: N806
        # The base layer's output is needed by nobody else: a linear layer saves its input, not its output.
        base.view(-1, base.shape[-1]).addmm_(h_TR, b_NR.t())
        ctx.mark_dirty(base)
        ctx.save_for_backward(x_TD, a_RD, b_NR, h_TR)
        ctx.scale, ctx.shape = scale, x.shape
        return base

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor, None]:
        x_TD, a_RD, b_NR, h_TR = ctx.saved_tensors  # noqa: N806
        g_TN = upstream.reshape(-1, upstream.shape[-1])  # noqa: N806
        gh_RT = torch.addmm(x_TD.new_empty(()), b_NR.t(), g_TN.t(), beta=0, alpha=ctx.scale)  # noqa: N806
        grad_x = (gh_RT.t() @ a_RD).view(ctx.shape) if ctx.needs_input_grad[1] else None
        return upstream, grad_x, gh_RT @ x_TD, (h_TR.t() @ g_TN).t(), None


class FusedLora:
    """What PEFT calls instead of its own arithmetic; the interface is that of its ``LoraVariant``."""

    @staticmethod
    def forward(module: Any, *, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        a, b = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        dropped, scale = module.lora_dropout[active_adapter](x), module.scaling[active_adapter]
        plain = result.is_contiguous() and not result._is_view() and result.dtype == dropped.dtype == a.dtype
        if not plain:
            longer: Tensor = result + (dropped @ a.t() @ b.t()) * scale
            return longer
        out: Tensor = _Product.apply(result, dropped, a, b, scale)
        return out


def fuse(model: nn.Module, adapter: str = "default") -> int:
    """Let the plain LoRA layers of a PEFT model compute with :class:`FusedLora`; returns how many do."""
    fused = 0
    for module in model.modules():
        variants = getattr(module, "lora_variant", None)
        if (
            variants is None
            or adapter in variants
            or type(module).__name__ not in ("Linear", "Linear4bit", "Linear8bitLt")
        ):
            continue
        if module.lora_bias.get(adapter):  # type: ignore[operator, union-attr]
            continue
        variants[adapter] = FusedLora()
        fused += 1
    return fused
