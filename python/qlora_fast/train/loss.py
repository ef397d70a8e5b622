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
from torch.nn.functional import cross_entropy as torch_cross_entropy

from qlora_fast.model import products
from qlora_fast.model.kernels.cross_entropy import cross_entropy, reference
from qlora_fast.model.products import Way

CHUNK_LOGITS = 1 << 26
"""Logits that live at the same time, in fp32: 256 MiB, which is 441 positions of Qwen3's vocabulary."""
CHUNK_BYTES = 256 << 20
"""Of logits that are overwritten with their gradient: they live once, in the model's dtype. 883 positions of Qwen3 in 16 bits,
in less memory than the fp32 logits above take together with their 16-bit copy."""


def chunk_of(vocabulary: int) -> int:
    """Positions whose logits are made together in fp32."""
    return max(64, CHUNK_LOGITS // vocabulary)


def chunk_in_place(vocabulary: int, value_bytes: int) -> int:
    """Positions whose logits are made together where their gradient overwrites them."""
    return max(64, CHUNK_BYTES // (vocabulary * value_bytes))


class _FrozenHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_KD: Tensor,  # noqa: N803
        weight_VD: Tensor,  # noqa: N803
        targets_K: Tensor,  # noqa: N803
        chunk: int,
        kernels: bool,
        way: Way,
    ) -> Tensor:
        gradient = torch.empty_like(hidden_KD) if ctx.needs_input_grad[0] else None
        losses = []
        for start in range(0, len(targets_K), chunk):
            wanted = targets_K[start : start + chunk]
            logits = products.forward(way, hidden_KD[start : start + chunk], weight_VD, None)
            # The logits are overwritten with their gradient.
            function = cross_entropy if kernels else reference
            losses.append(function(logits, wanted, gradient is not None))
            if gradient is not None:
                products.through(way, logits, weight_VD, gradient[start : start + chunk])
            del logits  # before the next chunk is made
        ctx.save_for_backward(gradient)
        return torch.cat(losses).sum() if losses else hidden_KD.new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        # Upstream is one over the update's tokens. A scalar would be rounded to the gradient's 16 bits before the product, by up to
        # 0.4 % and the same for all rows; a vector is not, and the product is made in fp32.
        return torch.mul(gradient, upstream.view(1), out=torch.empty_like(gradient)), None, None, None, None, None


def supervised_loss(
    hidden_KD: Tensor,  # noqa: N803
    weight_VD: Tensor,  # noqa: N803
    targets_K: Tensor,  # noqa: N803
    chunk: int | None = None,
    *,
    kernels: bool = False,
    way: Way = "torch",
) -> Tensor:
    """Σ cross-entropy of ``targets`` (K,) given hidden states (K, D) and a head (V, D): a scalar, fp32.

    A frozen head runs in chunks; a trainable one through autograd, all positions at once. K = 0 gives 0 with a
    gradient of 0, never NaN. A negative target adds nothing.

    Args:
        chunk: positions whose logits are made together; None: as many as memory is set aside for.
        kernels: whether Triton programs run here. way: of multiplying with a frozen head.
    """
    if weight_VD.requires_grad:
        wanted = targets_K.clamp(min=-1)
        return torch_cross_entropy((hidden_KD @ weight_VD.T).float(), wanted, ignore_index=-1, reduction="sum")
    vocabulary = len(weight_VD)
    if chunk is None:
        chunk = chunk_in_place(vocabulary, weight_VD.element_size()) if kernels else chunk_of(vocabulary)
    loss: Tensor = _FrozenHeadLoss.apply(hidden_KD, weight_VD, targets_K, chunk, kernels, way)
    return loss
