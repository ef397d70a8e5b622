"""Cross-entropy summed over supervised tokens, without ever holding all logits.

The sum is divided once, by the supervised tokens of the whole update on all ranks: then it does not matter how an
update is cut into rows. The head runs only where something is learned, a chunk of positions at a time; it is frozen, so
the gradient of the hidden states is known in the forward pass and no logits are kept for the backward.

Legend: K supervised positions, D hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

CHUNK = 512
"""Positions whose logits live at the same time: 512 × 152k in fp32 are 311 MB."""


class _FrozenHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_KD: Tensor, weight_VD: Tensor, targets_K: Tensor, chunk: int) -> Tensor:  # noqa: N803
        total = torch.zeros((), dtype=torch.float32, device=hidden_KD.device)
        gradient = torch.empty_like(hidden_KD)
        for start in range(0, len(targets_K), chunk):
            part, wanted = hidden_KD[start : start + chunk], targets_K[start : start + chunk]
            logits = (part @ weight_VD.T).float()
            normaliser = torch.logsumexp(logits, dim=-1)
            total += (normaliser - logits.gather(1, wanted[:, None])[:, 0]).sum()
            # d CE / d logits = softmax − one-hot, in place.
            logits.sub_(normaliser[:, None]).exp_()
            logits.scatter_add_(1, wanted[:, None], torch.full_like(logits[:, :1], -1.0))
            gradient[start : start + chunk] = logits.to(weight_VD.dtype) @ weight_VD
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None, None


def supervised_loss(hidden_KD: Tensor, weight_VD: Tensor, targets_K: Tensor, chunk: int = CHUNK) -> Tensor:  # noqa: N803
    """Σ cross-entropy of ``targets`` (K,) given hidden states (K, D) and a head (V, D): a scalar, fp32.

    A frozen head runs in chunks; a trainable one (LoRA on lm_head) through autograd. K = 0 gives 0 with a gradient
    of 0, never NaN.
    """
    if weight_VD.requires_grad:
        return cross_entropy((hidden_KD @ weight_VD.T).float(), targets_K, reduction="sum")
    loss: Tensor = _FrozenHeadLoss.apply(hidden_KD, weight_VD, targets_K, chunk)  # type: ignore[no-untyped-call]
    return loss
