"""Where the bytes of the units are while they are not on the device."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Pending(Protocol):
    """Something that was started, such as a collective of torch's. On a GPU ``wait`` only lets the current stream wait."""

    def wait(self) -> object: ...


class Source(Protocol):
    """Gives the bytes of units, which count from 0.

    Attributes:
        device_bytes: what it holds in the device's own memory.
        shared: whether other processes fill their units at the same moments, and wait for this one.
    """

    shared: bool

    @property
    def device_bytes(self) -> int: ...

    def keep(self, index: int, flat: Tensor) -> None:
        """Take over the bytes of a unit, which follows the last one that was given; its buffer is freed afterwards."""

    def fill(self, index: int, flat: Tensor) -> Pending | None:
        """Start to fill a unit's buffer with its bytes, on the current stream; None where nothing is left to wait for."""
