"""What it costs in time that a base does not lie complete on a GPU: bytes fetched per row, and the rows that hide it.

No torch, no measurement: arithmetic with the rates below. The order of events is that of
:mod:`qlora_fast.model.streamed.stream`::

    forward    embedding ┆ layer 1 ┆ layer 2 ┆ … ┆ layer L ┆ head      while one is used, the next one is fetched
    backward   layer L ┆ … ┆ layer 2 ┆ layer 1                          L is still there, 1 stays for the next row

A longer row computes longer with the same bytes: from some length on, the fetches cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

from qlora_fast.model.memory_estimate import Method, Shape
from qlora_fast.model.sharded_memory import layer_bytes, matrix_bytes

LINKS: Mapping[str, float] = MappingProxyType({"NVLink 4": 450e9, "PCIe 5": 63e9, "PCIe 4": 31.5e9, "100 GbE": 12.5e9})
"""Bytes per second in one direction, as specified: 18 lanes of NVLink 4, 16 lanes of PCIe, one network port for each GPU."""
PCIE = ("PCIe 5", "PCIe 4")
"""The links between main memory and a GPU."""
REACHED = 0.8
"""Share of a link's specified rate that large transfers usually reach."""
FLOPS = 100e12
"""Operations per second that a GPU is assumed to reach in matrix products: about an A100's or an RTX 4090's with small rows.
The lengths below are proportional to it."""
TOLERATED = 1.1
"""A row hides its fetches if it takes at most so many times what it would take with a complete base."""
_LONGEST = 1 << 24


@dataclass(frozen=True, slots=True)
class Gather:
    """The fetches of one training row.

    Attributes:
        layer, matrix: bytes that a GPU receives for a layer, and for the embedding or the head.
        layers: decoder layers. layer_work: operations per token of a layer's forward pass. head_work: those of the head.
        backward: a layer's backward pass, in forward passes.
    """

    layer: float
    matrix: float
    layers: int
    layer_work: int
    head_work: int
    backward: int

    @property
    def bytes_per_row(self) -> int:
        """Bytes that a GPU receives per training row, whatever its length."""
        return round(2 * (self.layers - 1) * self.layer + 2 * self.matrix)

    def seconds_per_row(self, link: str) -> float:
        """Seconds that the fetches of a row take: no row is faster."""
        return self.bytes_per_row / (LINKS[link] * REACHED)

    def slowdown(self, tokens: int, link: str) -> float:
        """Time of a row ÷ its time with a complete base."""
        rate = LINKS[link] * REACHED
        forward, head = tokens * self.layer_work / FLOPS, tokens * self.head_work / FLOPS
        backward, layer, matrix = forward * self.backward, self.layer / rate, self.matrix / rate
        between = self.layers - 1
        # Nothing is computed while the embedding is fetched; the head is fetched during the last layer.
        fetching = matrix + between * max(forward, layer) + max(forward, matrix) + head
        fetching += between * max(backward, layer) + backward
        return fetching / (self.layers * (forward + backward) + head)

    def tokens_to_hide(self, link: str) -> int:
        """Tokens of the shortest row that hides its fetches."""
        low, high = 0, _LONGEST
        while high - low > 1:
            middle = (low + high) // 2
            if self.slowdown(middle, link) <= TOLERATED:
                high = middle
            else:
                low = middle
        return high


def gather(shape: Shape, method: Method, devices: int = 1) -> Gather:
    """The fetches of a row whose base is shared by ``devices`` GPUs; 1: it lies in main memory."""
    received = (devices - 1) / devices if devices > 1 else 1.0
    return Gather(
        layer=layer_bytes(shape, method) * received,
        matrix=matrix_bytes(shape, method) * received,
        layers=shape.layers,
        layer_work=2 * sum(map(prod, shape.linear().values())),
        # Forward and backward, of the supervised tokens: counted as if half of a row were.
        head_work=2 * shape.vocab * shape.hidden,
        # The gradient of a layer's input; its weights are frozen. With checkpointing the forward pass comes again before it.
        backward=2 if method.checkpointing else 1,
    )
