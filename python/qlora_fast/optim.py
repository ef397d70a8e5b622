"""AdamW over the adapter, and the clipping of its gradient. Nothing here waits for the device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter


@dataclass(frozen=True, slots=True)
class AdamWOptions:
    """Decoupled weight decay (Loshchilov & Hutter 2019); the rate is set before each update."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0


def adamw(parameters: Iterable[Parameter], options: AdamWOptions) -> torch.optim.AdamW:
    """AdamW in one fused kernel over all parameters."""
    return torch.optim.AdamW(
        list(parameters), lr=0.0, betas=options.betas, eps=options.eps, weight_decay=options.weight_decay, fused=True
    )


def clip_gradients(parameters: list[Parameter], max_norm: float) -> Tensor:
    """Scale the gradients to a global norm of at most ``max_norm`` (0: never); returns the norm before, a scalar."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm: Tensor = torch.nn.utils.get_total_norm(gradients)
    if max_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
