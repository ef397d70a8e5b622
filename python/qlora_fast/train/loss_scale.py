"""The factor that keeps fp16 gradients from vanishing: torch's GradScaler, without its wait for the device.

fp16 has no numbers below 6e-8, and gradients have. The loss is multiplied by a large factor before the backward pass and
the gradient divided by it after. An update that overflows is left out and halves the factor; 2,000 good ones double it.
Halving removes an overflow that the factor caused; a persistent one aborts the run after 32 skipped steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

_START, _GROWTH, _BACKOFF, _PATIENCE = 2.0**16, 2.0, 0.5, 2000
HOPELESS = 32
"""Updates left out in a row behind which the run ends: 16 halvings take the factor from its start to 1, where the gradient
is the plain one, and 16 more to 1/65,536, where only a gradient above 4e9 still overflows. Nothing is learned from that."""


class LossScale:
    """Lives on the device.

    Attributes:
        value: what the loss is multiplied with.
        left_out: updates that overflowed, in a row and so far; a good one ends the row.
    """

    def __init__(self, device: torch.device) -> None:
        self.value = torch.full((), _START, device=device)
        self._good = torch.zeros((), dtype=torch.int32, device=device)
        self.left_out = torch.zeros((), dtype=torch.int32, device=device)

    def update(self, found_inf: Tensor) -> None:
        """Learn whether the update overflowed: 1.0 if it did, else 0.0."""
        torch._amp_update_scale_(self.value, self._good, found_inf, _GROWTH, _BACKOFF, _PATIENCE)
        self.left_out.add_(1).mul_(found_inf.int())

    def tensors(self) -> dict[str, Tensor]:
        return {"scale.value": self.value.cpu(), "scale.good": self._good.cpu(), "scale.left_out": self.left_out.cpu()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.value.copy_(tensors["scale.value"])
        self._good.copy_(tensors["scale.good"])
        self.left_out.copy_(tensors["scale.left_out"])
