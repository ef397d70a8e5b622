"""The factor that keeps fp16 gradients from vanishing: torch's GradScaler, without its wait for the device.

fp16 has no numbers below 6e-8, and gradients have. The loss is multiplied by a large factor before the backward pass and
the gradient divided by it after. An update that overflows is left out and halves the factor; 2,000 good ones double it.
"""

from __future__ import annotations

import torch
from torch import Tensor

_START, _GROWTH, _BACKOFF, _PATIENCE = 2.0**16, 2.0, 0.5, 2000


class LossScale:
    """Lives on the device.

    Attributes:
        value: what the loss is multiplied with.
    """

    def __init__(self, device: torch.device) -> None:
        self.value = torch.full((), _START, device=device)
        self._good = torch.zeros((), dtype=torch.int32, device=device)

    def update(self, found_inf: Tensor) -> None:
        """Learn whether the update overflowed: 1.0 if it did, else 0.0."""
        torch._amp_update_scale_(self.value, self._good, found_inf, _GROWTH, _BACKOFF, _PATIENCE)

    def tensors(self) -> dict[str, Tensor]:
        return {"scale.value": self.value.cpu(), "scale.good": self._good.cpu()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.value.copy_(tensors["scale.value"])
        self._good.copy_(tensors["scale.good"])
