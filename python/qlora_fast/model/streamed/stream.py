"""Which units are on the device: fetched before their use, the next one while this one is used, released behind it.

A pass uses the units by places: the embedding, the decoder layers, the head (which may be the embedding's unit again); an
embedding or a head that is trained is on the device and has none. Every process of a run that shares its base fetches at the
same moments, because they only depend on the passes made::

    forward    place 0, 1, 2, …: need it, start the next one, use it, release it
    backward   …, 2, 1: need it, start the one before, use it, release it

The last layer stays when a backward pass follows, which begins with it, and the first one stays behind the backward pass, as the
next forward pass begins with it. So there are never more than two units on the device.

On a GPU the copies run on a stream of their own. A buffer's memory belongs to that stream: it waits for the last use before the
memory is given back to it, and the computation waits for the copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from qlora_fast.model.streamed.source import Pending, Source
from qlora_fast.model.streamed.unit import Unit


class Stream:
    """Fetches and releases the units of one model.

    Args:
        places: the unit of each place of a forward pass.
        source: keeps the bytes of the units already.
        layers: the places that are decoder layers; default all but the first and the last.

    Attributes:
        fetched: how many times a unit was fetched.
        backward: the places that a backward pass comes to; default the layers. See :func:`~hooks.places_with_backward`.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        places: Sequence[int],
        source: Source,
        device: torch.device,
        *,
        layers: range | None = None,
    ) -> None:
        self.units = tuple(units)
        self.places = tuple(places)
        self.source = source
        self._layers = range(1, len(self.places) - 1) if layers is None else layers
        self.fetched = 0
        self.backward = self._layers
        self._pending: dict[int, Pending | None] = {}
        self._uses = [0] * len(self.units)
        self._in_backward: set[int] = set()
        self._side: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._ready: dict[int, Any] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers that have memory now."""
        return sum(unit.nbytes for unit in self.units if unit.present)

    def enter(self, place: int) -> None:
        """The forward pass, or a recomputation of it, comes to a place."""
        if place in self._in_backward:
            return
        if place == 0:
            self.reset()
        self._need(place)
        if place + 1 < len(self.places):
            self._start(self.places[place + 1])

    def leave(self, place: int, *, backward_follows: bool) -> None:
        """The forward pass is done with a place."""
        if place in self._in_backward:
            return
        self._uses[self.places[place]] -= 1
        if not (backward_follows and place == self._layers[-1]):
            self._release(place)

    def enter_backward(self, place: int) -> None:
        """The backward pass comes to a place; any number of times."""
        if place in self._in_backward:
            return
        # Its output is the input of the next place, which is done with its backward pass then, and may say so only later.
        self.leave_backward(place + 1)
        self._need(place)
        self._in_backward.add(place)
        if place > self.backward.start:
            self._start(self.places[place - 1])

    def leave_backward(self, place: int) -> None:
        """The backward pass is done with a place."""
        if place not in self._in_backward:
            return
        self._in_backward.discard(place)
        self._uses[self.places[place]] -= 1
        if place > self._layers[0]:
            self._release(place)

    @contextmanager
    def held(self, place: int) -> Iterator[None]:
        """Inside, a place is used several times or by no module's call."""
        self.enter(place)
        try:
            yield
        finally:
            self.leave(place, backward_follows=False)

    def idle_pass(self, *, training: bool) -> None:
        """Fetch and release as a pass over a row does, without a row: it changes nothing, and the others can go on."""
        for place in range(len(self.places)):
            self.enter(place)
            self.leave(place, backward_follows=training and place in self.backward)
        if training:
            for place in reversed(self.backward):
                self.enter_backward(place)
                self.leave_backward(place)

    def reset(self) -> None:
        """Forget a pass that was not finished: it failed, or its gradient was never computed."""
        self._in_backward.clear()
        self._uses = [0] * len(self.units)
        staying = set(self.places[: self._layers[0] + 1])
        for index in range(len(self.units)):
            if index not in staying:
                self._free(index)

    def _need(self, place: int) -> None:
        index = self.places[place]
        self._uses[index] += 1
        self._start(index)
        pending = self._pending.pop(index, None)
        if pending is not None:
            pending.wait()
        if self._side is not None and (ready := self._ready.pop(index, None)) is not None:
            torch.cuda.current_stream(self._side.device).wait_event(ready)

    def _start(self, index: int) -> None:
        unit = self.units[index]
        if unit.present:
            return
        self.fetched += 1
        with torch.no_grad(), self._aside():
            unit.allocate()
            pending = self.source.fill(index, unit.flat)
            if self._side is None:
                self._pending[index] = pending
                return
            if pending is not None:
                pending.wait()
            self._ready[index] = self._side.record_event()

    def _release(self, place: int) -> None:
        index = self.places[place]
        if self._uses[index] == 0:
            self._free(index)

    def _free(self, index: int) -> None:
        unit = self.units[index]
        if not unit.present:
            return
        if (pending := self._pending.pop(index, None)) is not None:
            pending.wait()
        self._ready.pop(index, None)
        if self._side is not None:
            self._side.wait_event(torch.cuda.current_stream(self._side.device).record_event())
        with self._aside():
            unit.free()

    def _aside(self) -> Any:
        return nullcontext() if self._side is None else torch.cuda.stream(self._side)
