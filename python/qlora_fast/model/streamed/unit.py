"""The frozen tensors of a part of a model, side by side in one buffer that can be given back and filled again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_ALIGN = 256
"""Bytes at whose multiples each tensor starts: kernels load them in vectors."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor of a unit, and how another one is put in its place."""

    tensor: Tensor
    install: Callable[[Tensor], None]


class Unit:
    """Frozen tensors that are used together.

    Making one moves them: afterwards they are views into :attr:`flat`, and their old memory is free.

    Attributes:
        name: for messages.
        flat: (bytes,) uint8. Its storage has no bytes while the unit is away.
    """

    def __init__(
        self,
        name: str,
        modules: Iterable[nn.Module],
        *,
        multiple: int = 1,
        device: torch.device | None = None,
        skip: Collection[nn.Module] = (),
    ) -> None:
        """
        Args:
            multiple: the buffer's size is a multiple of this many aligned blocks, so that it can be cut into equal parts.
            device: of the buffer; default that of the tensors. Those on ``meta`` get memory in it that is to be filled.
            skip: modules that are left as they are.
        """
        self.name = name
        slots = list(_slots(modules, skip))
        starts = [0]
        for slot in slots:
            starts.append(starts[-1] + _padded(slot.tensor.nbytes, _ALIGN))
        self.nbytes = max(_padded(starts[-1], _ALIGN * multiple), _ALIGN * multiple)
        if len(slots) == 1 and _fills_its_storage(slots[0].tensor, self.nbytes):
            # A vocabulary's matrix may be the largest of all: it is not copied.
            self.flat = slots[0].tensor.reshape(-1).view(torch.uint8)
            return
        device = device or (slots[0].tensor.device if slots else torch.device("cpu"))
        self.flat = torch.zeros(self.nbytes, dtype=torch.uint8, device=device)
        while slots:
            slot, start = slots.pop(), starts[len(slots)]
            part = self.flat[start : start + slot.tensor.nbytes].view(slot.tensor.dtype).view(slot.tensor.shape)
            if not slot.tensor.is_meta:
                part.copy_(slot.tensor)
            slot.install(part)  # the old memory is free from here on

    @property
    def present(self) -> bool:
        """Whether the buffer has memory, filled or not yet."""
        return self.flat.untyped_storage().nbytes() > 0

    def allocate(self) -> None:
        """Give the buffer memory, on the current stream; what is in it is not defined."""
        self.flat.untyped_storage().resize_(self.nbytes)

    def free(self) -> None:
        """Give the memory back."""
        self.flat.untyped_storage().resize_(0)


def _fills_its_storage(tensor: Tensor, nbytes: int) -> bool:
    storage = tensor.untyped_storage()
    return (
        not tensor.is_meta
        and tensor.is_contiguous()
        and storage.nbytes() == nbytes == tensor.nbytes
        and storage.resizable()
    )


def _padded(size: int, to: int) -> int:
    return -(-size // to) * to


def _slots(modules: Iterable[nn.Module], skip: Collection[nn.Module]) -> Iterator[Slot]:
    """Each frozen tensor once: parameters, and the scales of quantized ones. Code books, which are tiny, stay where they are."""
    seen: set[int] = set()
    for module in modules:
        for part in module.modules():
            if part in skip:
                continue
            for name, parameter in part.named_parameters(recurse=False):
                if (parameter.is_meta or not parameter.requires_grad) and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield from _of_parameter(part, name, parameter)


def _of_parameter(owner: Any, name: str, parameter: Any) -> Iterator[Slot]:
    if parameter.is_meta:
        # `.data` counts its own changes: for autograd, refilling the buffer changes no parameter.
        yield Slot(parameter.data, lambda view: setattr(owner, name, nn.Parameter(view.data, requires_grad=False)))
        return
    if hasattr(parameter, "SCB") and parameter is owner.weight:
        yield from _of_eight_bits(owner)
        return
    yield Slot(parameter.data, lambda view: setattr(parameter, "data", view))
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        yield Slot(state.absmax, lambda view: setattr(state, "absmax", view))
        if state.state2 is not None:
            yield Slot(state.state2.absmax, lambda view: setattr(state.state2, "absmax", view))


def _of_eight_bits(layer: Any) -> Iterator[Slot]:
    """bitsandbytes' 8-bit layer keeps its weight twice, as a parameter and in the state that its products read."""
    if layer.weight.CB is not None:
        layer.init_8bit_state()

    def install(view: Tensor) -> None:
        layer.state.CB = view
        layer.weight.data = view

    yield Slot(layer.state.CB, install)
    yield Slot(layer.state.SCB, lambda view: setattr(layer.state, "SCB", view))
