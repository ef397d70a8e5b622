"""A source in main memory: the base of one GPU that is too small for it (``offload_base``).

On a GPU the memory is pinned, so that a copy runs beside the computation and the system never moves it to disk. On a CPU, which
has no memory of another kind, the copies are plain ones, which save nothing; they
show that the result is that of a complete base which multiplies alike (a base in parts is never rounded to bf16).

torch rounds every pinned allocation up to a power of two: an embedding of 1.2 GB would take 2.1. So a unit is kept in pieces whose
sizes are powers of two themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from qlora_fast.errors import TrainingError

_SMALLEST = 1 << 20
"""Bytes of the last piece of a unit, at most: smaller ones would only be more copies."""


class Pinned:
    """Each unit's bytes in main memory.

    Attributes:
        device_bytes: what it holds in the device's own memory: nothing.
        host_bytes: what it holds in main memory.
    """

    device_bytes = 0
    shared = False

    def __init__(self) -> None:
        self._kept: list[list[Tensor]] = []

    @property
    def host_bytes(self) -> int:
        return sum(piece.nbytes for pieces in self._kept for piece in pieces)

    def keep(self, index: int, flat: Tensor) -> None:
        """
        Raises:
            TrainingError: main memory does not suffice.
        """
        try:
            pieces = [
                torch.empty(size, dtype=flat.dtype, pin_memory=flat.is_cuda) for size in piece_sizes(flat.numel())
            ]
            for piece, part in _beside(pieces, flat):
                piece.copy_(part)
        except (RuntimeError, MemoryError) as error:  # CUDA reports refused pinned memory as an error of its own
            raise TrainingError(
                f"main memory does not hold the base model: {self.host_bytes / 1e9:.1f} GB of it are there, and no more could "
                "be pinned",
                hint="quantization_bit=4 takes a quarter; in a container, its limits on memory and on locked memory (ulimit -l) "
                "count too",
            ) from error
        self._kept.append(pieces)

    def fill(self, index: int, flat: Tensor) -> None:
        for piece, part in _beside(self._kept[index], flat):
            part.copy_(piece, non_blocking=True)


def _beside(pieces: Sequence[Tensor], flat: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each piece with the part of the buffer that it holds."""
    return zip(pieces, torch.split(flat, [len(piece) for piece in pieces]), strict=True)


def piece_sizes(size: int) -> list[int]:
    """``size`` bytes as falling powers of two and a rest of less than a MiB."""
    sizes = []
    while size >= _SMALLEST:
        sizes.append(1 << (size.bit_length() - 1))
        size -= sizes[-1]
    return sizes + [size] * bool(size)
