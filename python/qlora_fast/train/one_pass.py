"""AdamW on a GPU in one launch per group: clipping, the update, the 16-bit copy and the cleared gradient.

The state is that of torch's fused AdamW, by the same names: a checkpoint of either continues with the other. The rate and the
bias corrections are tensors on the device, so a captured graph sees those of its replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qlora_fast.model.kernels import adamw


@dataclass(frozen=True, slots=True)
class Stretch:
    """A group's part of the flat vector: weights and gradient in fp32, the copy that the model sees, and its decay."""

    weights: Tensor
    gradient: Tensor
    seen: Tensor
    decay: float


class OnePass:
    """The arithmetic over a few stretches of the flat vector.

    Args:
        limit: the norm that the gradient is clipped to; 0 never clips.
    """

    def __init__(self, stretches: Sequence[Stretch], betas: tuple[float, float], eps: float, limit: float) -> None:
        device = stretches[0].weights.device
        self._betas = torch.tensor(betas, dtype=torch.float64, device=device)
        self._vectors = [
            adamw.Vectors(s.weights, s.gradient, torch.zeros_like(s.weights), torch.zeros_like(s.weights), s.seen)
            for s in stretches
        ]
        self._settings = [adamw.Settings(betas, eps, s.decay, limit) for s in stretches]
        # One step for all groups; it is saved for each, as torch does.
        self._step = torch.zeros((), device=device)
        self._rates = torch.zeros(len(stretches), device=device)

    def step(self, rates: Sequence[float], norm: Tensor) -> None:
        """One optimizer step at a rate per group; nothing changes but the gradient where its norm is not finite."""
        host = torch.tensor(list(rates), dtype=torch.float32)
        if self._rates.is_cuda:
            host = host.pin_memory()
        self._rates.copy_(host, non_blocking=True)
        self._step += norm.isfinite()
        powers = self._betas**self._step
        for vectors, settings, rate in zip(self._vectors, self._settings, self._rates, strict=True):
            adamw.update(vectors, norm, rate, powers, settings)

    def tensors(self) -> dict[str, Tensor]:
        return {name: value.detach().to("cpu", copy=True) for name, value in self._named()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        for name, value in self._named():
            value.copy_(tensors[name])

    def nbytes(self) -> int:
        return sum(value.nbytes for _, value in self._named())

    def _named(self) -> list[tuple[str, Tensor]]:
        return [
            pair
            for g, v in enumerate(self._vectors)
            for pair in ((f"{g}.step", self._step), (f"{g}.exp_avg", v.mean), (f"{g}.exp_avg_sq", v.square))
        ]
