"""A program for the null GPU: passes over a streamed base, whose streams and events are followed. Found is a use that is not ordered
behind the copy into its buffer, and a copy into memory that may still be in use.

(torch's own sanitizer knows tensors by their first address, and takes memory that was freed for unused.)

    python tests/nullgpu/streams.py [ready|release]

The word leaves out the wait for the copy, or the one before a buffer is given back. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":0:0"  # no workspace: it is counted with CUDA's context

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import tiny  # noqa: E402
from qlora_fast.model.lora import LoraSpec, add_lora  # noqa: E402
from qlora_fast.model.memory_estimate import Method, Shape  # noqa: E402
from qlora_fast.model.sharded_memory import on_each  # noqa: E402
from qlora_fast.model.streamed import hooks  # noqa: E402
from qlora_fast.model.streamed.pinned import Pinned  # noqa: E402
from qlora_fast.model.streamed.stream import Stream  # noqa: E402
from qlora_fast.model.streamed.unit import Unit  # noqa: E402

GPU = torch.device("cuda", 0)
LAYERS = 6


def main(left_out: str = "") -> None:
    shape = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_hidden_layers": LAYERS}
    base = tiny.llama(attention="eager", **shape).bfloat16().to(GPU)
    source, parts = Pinned(), hooks.parts_of(base)
    units = [Unit(f"{number}", [part]) for number, part in enumerate(parts)]
    for index, unit in enumerate(units):
        source.keep(index, unit.flat)
        unit.free()
    stream = Stream(units, range(len(units)), source, GPU)
    hooks.install(parts, stream)
    model = add_lora(base, LoraSpec(4, 8), seed=0, checkpointing=True, kernels="off")
    ids = torch.arange(32, device=GPU)[None]
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    most = 0
    start = stream._start

    def watched(index: int) -> None:
        nonlocal most
        start(index)
        most = max(most, sum(unit.present for unit in stream.units))

    stream._start = watched  # type: ignore[method-assign]
    order = Order(stream, left_out)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    peak = torch.cuda.max_memory_allocated() - before
    for _ in range(3):
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
        model(input_ids=ids, use_cache=False).logits.float().sum().backward()
    error = next(iter(order.errors), "")
    method = Method(tokens=ids.numel(), width=2)
    estimated = on_each(Shape.of(base.config.to_dict()), method, devices=2).gathered
    print(json.dumps({"error": error, "units": most, "peak": peak, "gathered": estimated, "fetched": stream.fetched}))


class Order:
    """What is known to have happened before what: for each stream, how far each other one is at least."""

    def __init__(self, stream: Stream, left_out: str) -> None:
        self.errors: list[str] = []
        self._side = stream._side.cuda_stream
        self._now: dict[int, dict[int, int]] = {}
        self._events: dict[int, dict[int, int]] = {}
        self._kept: list[Any] = []  # an event's id stays its own
        self._filled: dict[int, int] = {}
        self._last_use: dict[int, int] = {}
        self._freed: set[int] = set()
        order, kind = self, torch.cuda.Stream
        record, wait = kind.record_event, kind.wait_event

        def recorded(own: Any, event: Any = None) -> Any:
            made = record(own, event)
            order._kept.append(made)
            order._events[id(made)] = dict(order._clock(own.cuda_stream))
            return made

        def waited(own: Any, event: Any) -> None:
            if left_out == ("release" if own.cuda_stream == order._side else "ready"):
                return
            wait(own, event)
            clock = order._clock(own.cuda_stream)
            for other, moment in order._events[id(event)].items():
                clock[other] = max(clock.get(other, 0), moment)

        kind.record_event, kind.wait_event = recorded, waited  # type: ignore[method-assign, assignment]
        self._follow(stream)

    def _clock(self, stream: int) -> dict[int, int]:
        return self._now.setdefault(stream, {stream: 0})

    def _tick(self) -> tuple[int, dict[int, int]]:
        """An operation on the current stream."""
        own = torch.cuda.current_stream().cuda_stream
        clock = self._clock(own)
        clock[own] += 1
        return own, clock

    def _follow(self, stream: Any) -> None:
        fill, places = stream.source.fill, stream.places

        def filled(index: int, flat: Tensor) -> None:
            own, clock = self._tick()
            assert own == self._side, "copies run beside the computation"
            for other in self._freed:  # the memory may be that of any buffer that was given back
                if self._last_use[other] > clock.get(self._main, 0):
                    self.errors.append(f"unit {index} is copied over unit {other}, which is in use")
            self._freed.discard(index)
            self._filled[index] = clock[own]
            fill(index, flat)

        def used(place: int) -> None:
            index = places[place]
            own, clock = self._tick()
            self._main = own
            if self._filled.get(index, 0) > clock.get(self._side, 0):
                self.errors.append(f"unit {index} is used before it is there")
            self._last_use[index] = clock[own]

        self._main = torch.cuda.current_stream().cuda_stream
        stream.source.fill = filled
        enter, leave = stream.enter, stream.leave
        enter_backward, leave_backward = stream.enter_backward, stream.leave_backward

        def left_backward(place: int) -> None:
            if place in stream._in_backward:  # it may be said a second time
                used(place)
            leave_backward(place)

        stream.enter = lambda place: (enter(place), used(place))
        stream.leave = lambda place, **more: (used(place), leave(place, **more))
        stream.enter_backward = lambda place: (enter_backward(place), used(place))
        stream.leave_backward = left_backward
        for index, unit in enumerate(stream.units):
            free = unit.free
            unit.free = lambda index=index, free=free: (self._freed.add(index), free())


if __name__ == "__main__":
    main(*sys.argv[1:])
