"""Forward and backward of one row: the gradient is added to the update's. Here as PyTorch runs it; :mod:`graphs` replays it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from qlora_fast.data.batch import Row
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.train.forward import Forward, RowTensors


class RowPass(Protocol):
    """How the rows of an update are run."""

    def __call__(self, row: Row, divisor: float | Tensor) -> Tensor:
        """Run a row, and add the gradient of its loss ÷ ``divisor`` to the adapter's.

        Returns:
            Its summed loss, a scalar on the device that the next call may overwrite.
        """

    def described(self) -> dict[str, object]:
        """For run.json."""


class Eager:
    """Every operation of every row is launched by Python.

    Args:
        why: rows are not replayed, for people.
    """

    def __init__(self, forward: Forward, adapter: Adapter, why: str = "") -> None:
        self._forward, self._adapter, self._why = forward, adapter, why

    def __call__(self, row: Row, divisor: float | Tensor) -> Tensor:
        return self._backward(self._forward.loss_sum(row), divisor)

    def of(self, row: RowTensors, divisor: Tensor) -> Tensor:
        """The same of a row that is on the device."""
        return self._backward(self._forward.loss_of(row), divisor)

    def described(self) -> dict[str, object]:
        return {"used": False, "reason": self._why}

    def _backward(self, loss: Tensor, divisor: float | Tensor) -> Tensor:
        torch.autograd.backward(loss / divisor)
        self._adapter.collect()
        return loss.detach()
