"""The memory of a run whose frozen base does not lie complete on each GPU, and whether a run fits. No torch, no weights.

::

    sharded     each GPU holds 1/K of every layer's bytes; a layer is gathered before its use and freed after it
    offloaded   the base is in main memory; a layer is copied to the GPU before its use and freed after it

Beside its share a GPU then has at most two things complete at the same time: the layer in use and the one fetched ahead of
it. One of them may be the embedding or the head, which are larger than a layer. Adapter, optimizer, activations and logits
are as with a complete base.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from qlora_fast.config import Config
from qlora_fast.model.memory_estimate import Memory, Method, Shape, estimate, quantized

GB = 10**9
"""A GPU sold with 24 GB has 24 GiB. Estimates are compared with 24 · 10⁹ bytes: the 7 % between are the allocator's."""
Sharing = Literal["off", "node", "world"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a run fits on each GPU.

    Attributes:
        memory: bytes on each GPU, part by part. bytes_each: what each GPU has.
        host: bytes of main memory that each process holds the base in; 0 without offloading.
    """

    memory: Memory
    bytes_each: int
    host: int = 0

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.bytes_each


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the base lies: complete on each GPU, shared by ``devices`` of them, or in main memory."""

    name: str
    devices: int = 1
    offload: bool = False


def placements(devices: int) -> list[Placement]:
    """The ways to place a base with so many GPUs: sharing takes several, offloading is for one."""
    other = Placement(f"shared by {devices}", devices) if devices > 1 else Placement("main memory", offload=True)
    return [Placement("each GPU"), other]


def planned(config: Config, tokens: int, width: int | None = None) -> Method:
    """The run as the config says; with gradient checkpointing where the config leaves that open.

    Args:
        tokens: of the longest row. width: bytes of a value of the dtype that ``auto`` came to.
    """
    method = Method.of(config, tokens, width=width)
    return method.recomputing() if config.gradient_checkpointing == "auto" else method


def fits(shape: Shape, method: Method, devices: int, bytes_each: int, *, offload: bool = False) -> Verdict:
    """Whether a run fits on GPUs of ``bytes_each`` bytes.

    Args:
        devices: GPUs that share the base; 1 where each has it complete.
        offload: whether the base (or this GPU's share of it) is in main memory.
    """
    memory = on_each(shape, method, devices, offload=offload)
    return Verdict(memory, bytes_each, share(base_bytes(shape, method), devices) if offload else 0)


def sharing(shape: Shape, method: Method, node: int, world: int, bytes_each: int) -> tuple[Sharing, Verdict]:
    """The least sharing with which a run fits: what ``shard_base: auto`` stands for.

    Args:
        node: GPUs of one machine. world: GPUs of all machines.

    Returns:
        The sharing and its verdict; where nothing fits, the widest one.
    """
    choices: list[tuple[Sharing, int]] = [("off", 1), ("node", node), ("world", world)]
    # On one machine both are the same group.
    tried = [(name, fits(shape, method, ranks, bytes_each)) for name, ranks in choices if name == "off" or ranks > 1]
    return next((choice for choice in tried if choice[1].fits), tried[-1])


def on_each(shape: Shape, method: Method, devices: int = 1, *, offload: bool = False) -> Memory:
    """Bytes on each GPU, part by part, with the base shared by ``devices`` GPUs, or in main memory."""
    whole = estimate(shape, method)
    if devices == 1 and not offload:
        return whole
    held = {
        part: 0 if offload else share(getattr(whole, part), devices) for part in ("embedding", "linear", "constants")
    }
    layer = layer_bytes(shape, method)
    return replace(whole, **held, gathered=max(2 * layer, matrix_bytes(shape, method) + layer))


def layer_bytes(shape: Shape, method: Method) -> int:
    """Frozen bytes of one decoder layer, as they are stored: packed weights, constants, norms and biases."""
    linear, constants = quantized(shape, method)
    return (linear + constants + (shape.small - shape.hidden) * method.width) // shape.layers


def matrix_bytes(shape: Shape, method: Method) -> int:
    """Bytes of the token embedding, and of the head where it is another matrix: never quantized."""
    return shape.vocab * shape.hidden * method.width


def base_bytes(shape: Shape, method: Method) -> int:
    """Bytes of the complete frozen base, as it is stored."""
    return estimate(shape, method).weights


def share(size: int, devices: int) -> int:
    """The part of ``size`` bytes that each of ``devices`` GPUs holds."""
    return -(-size // devices)
