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

CHUNK_LOGITS = 1 << 26
"""Logits that live at the same time, in fp32: 256 MiB, which is 441 positions of Qwen3's vocabulary."""


def chunk_of(vocabulary: int) -> int:
    """Positions whose logits are made together."""
    return max(64, CHUNK_LOGITS // vocabulary)


class _FrozenHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_KD: Tensor, weight_VD: Tensor, targets_K: Tensor, chunk: int) -> Tensor:  # noqa: N803
        total = torch.zeros((), dtype=torch.float32, device=hidden_KD.device)
        gradient = torch.empty_like(hidden_KD) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets_K), chunk):
            part, wanted = hidden_KD[start : start + chunk], targets_K[start : start + chunk, None]
            logits = (part @ weight_VD.T).float()
            normaliser = torch.logsumexp(logits, dim=-1, keepdim=True)
            total += (normaliser - logits.gather(1, wanted)).sum()
            if gradient is not None:
                # d CE / d logits = softmax − one-hot, written over the logits.
                logits.sub_(normaliser).exp_()
                logits.scatter_add_(1, wanted, torch.full_like(logits[:, :1], -1.0))
                torch.mm(logits.to(weight_VD.dtype), weight_VD, out=gradient[start : start + chunk])
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None, None


def supervised_loss(hidden_KD: Tensor, weight_VD: Tensor, targets_K: Tensor, chunk: int | None = None) -> Tensor:  # noqa: N803
    """Σ cross-entropy of ``targets`` (K,) given hidden states (K, D) and a head (V, D): a scalar, fp32.

    A frozen head runs in chunks; a trainable one through autograd, all positions at once. K = 0 gives 0 with a
    gradient of 0, never NaN.
    """
    if weight_VD.requires_grad:
        return cross_entropy((hidden_KD @ weight_VD.T).float(), targets_K, reduction="sum")
    loss: Tensor = _FrozenHeadLoss.apply(hidden_KD, weight_VD, targets_K, chunk or chunk_of(len(weight_VD)))
    return loss
