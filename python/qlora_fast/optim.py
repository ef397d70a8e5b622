"""AdamW over the flat adapter, and the clipping of its gradient. Nothing here waits for the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qlora_fast.adapter import Adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamWOptions:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    LoRA matrices have no biases among them, so the decay applies to all.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Clip the gradient to this global norm; 0 never clips."""


class AdamW:
    """One fused kernel over one vector. An update whose gradient is not finite changes nothing."""

    def __init__(self, adapter: Adapter, options: AdamWOptions) -> None:
        self._adapter = adapter
        self._max_norm = options.max_grad_norm
        self._flat = torch.nn.Parameter(adapter.weights)
        self._flat.grad = adapter.gradient
        self._adam = torch.optim.AdamW(
            [self._flat], lr=0.0, betas=options.betas, eps=options.eps, weight_decay=options.weight_decay, fused=True
        )
        zeros = torch.zeros_like(adapter.weights)
        self._adam.state[self._flat] = {
            "step": torch.zeros((), device=zeros.device),
            "exp_avg": zeros,
            "exp_avg_sq": zeros.clone(),
        }

    @torch.no_grad()
    def step(self, lr: float) -> Tensor:
        """Clip, update at rate ``lr``, and show the model its new weights.

        Returns:
            The gradient's norm before clipping, a scalar on the device; not finite exactly when nothing was changed.
        """
        gradient = self._adapter.gradient
        norm: Tensor = torch.linalg.vector_norm(gradient)
        if self._max_norm > 0:
            gradient.mul_((self._max_norm / (norm + 1e-6)).clamp_(max=1.0))
        self._adam.param_groups[0]["lr"] = lr
        # The protocol of torch's GradScaler: the kernel leaves everything as it is where this is 1.
        self._adam.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        self._adam.step()
        self._adapter.publish()
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """Both moments and the step count, on the host."""
        state = self._adam.state[self._flat]
        return {f"adam.{name}": value.detach().to("cpu", copy=True) for name, value in state.items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what :meth:`tensors` gave; a missing one is a KeyError, never a zero."""
        for name, value in self._adam.state[self._flat].items():
            value.copy_(tensors[f"adam.{name}"])
