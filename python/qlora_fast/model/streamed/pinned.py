"""A source in main memory: the base of one GPU that is too small for it (``offload_base``).

On a GPU the memory is pinned, so that a copy runs beside the computation and the system never moves it to disk. On a CPU, which
has no memory of another kind, the copies are plain ones, which save nothing; they
show that the result is that of a complete base which multiplies alike (a base in parts is never rounded to bf16).
"""

from __future__ import annotations

import torch
from torch import Tensor

from qlora_fast.errors import TrainingError


class Pinned:
    """Each unit's bytes in main memory.

    Attributes:
        device_bytes: what it holds in the device's own memory: nothing.
        host_bytes: what it holds in main memory.
    """

    device_bytes = 0
    shared = False

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    @property
    def host_bytes(self) -> int:
        return sum(kept.nbytes for kept in self._kept)

    def keep(self, index: int, flat: Tensor) -> None:
        """
        Raises:
            TrainingError: main memory does not suffice.
        """
        try:
            kept = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=flat.is_cuda)
            kept.copy_(flat)
        except (RuntimeError, MemoryError) as error:  # CUDA reports refused pinned memory as an error of its own
            raise TrainingError(
                f"main memory does not hold the base model: {self.host_bytes / 1e9:.1f} GB of it are there, and no more could "
                "be pinned",
                hint="quantization_bit=4 takes a quarter; in a container, its limits on memory and on locked memory (ulimit -l) "
                "count too",
            ) from error
        self._kept.append(kept)

    def fill(self, index: int, flat: Tensor) -> None:
        flat.copy_(self._kept[index], non_blocking=True)
