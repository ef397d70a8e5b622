"""Where a model uses its units: the calls of its embedding, its decoder layers and its head, and their backward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from qlora_fast.model.streamed.stream import Stream


def parts_of(model: Any) -> list[nn.Module]:
    """The modules at the places of a forward pass: embedding, decoder layers, head. ``model`` has no adapter yet."""
    return [model.get_input_embeddings(), *model.get_decoder().layers, model.get_output_embeddings()]


def install(parts: list[nn.Module], stream: Stream) -> None:
    """Let the parts of a model fetch and release their units; ``parts`` are those of :func:`parts_of`."""
    for place, part in enumerate(parts):
        _Hooks(stream, place).install(part)


def stream_of(model: Any) -> Stream | None:
    """The stream that a model's base comes by, or None for one that is all on the device."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    # A decoder that calls them otherwise, as GPT-2's, is never loaded in parts.
    layers = getattr(inner.get_decoder(), "layers", ())
    # One that is trained whole is on the device, be it the first.
    found = next((layer.streamed for layer in layers if comes_by_a_stream(layer)), None)
    return None if found is None else cast("_Hooks", found).stream


def places_with_backward(model: Any, *, plain_head: bool) -> range:
    """The places that a backward pass comes to: those behind the first weight that is trained, as far as they need their own.

    Args:
        model: one whose base is streamed, with its adapter. plain_head: whether its head is run in pieces, whose gradient is made
            in the forward pass.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    parts: list[nn.Module] = parts_of(inner)
    streamed = [[cast("_Hooks", m.streamed).place for m in part.modules() if comes_by_a_stream(m)] for part in parts]
    trained = [any(p.requires_grad for p in part.parameters()) for part in parts]
    behind, first = trained[0], None
    for own, places in zip(trained[1:-1], streamed[1:-1], strict=True):
        behind = behind or own
        if behind and places and first is None:
            first = places[0]
    stop = max(places[0] for places in streamed[1:-1] if places) + 1
    beside = sum(p.requires_grad for p in inner.parameters()) > sum(p.requires_grad for p in parts[-1].parameters())
    head = not plain_head and beside and bool(streamed[-1])
    return range(stop if first is None else first, stop + head)


def comes_by_a_stream(module: nn.Module) -> bool:
    """Whether a module is itself a part that is fetched for its calls."""
    return hasattr(module, "streamed")


def held(module: nn.Module) -> AbstractContextManager[None]:
    """Inside, the weights of a part are on the device: for what reads them without a call, or calls it several times."""
    hooks: _Hooks | None = getattr(module, "streamed", None)
    return nullcontext() if hooks is None else hooks.stream.held(hooks.place)


class _Hooks:
    def __init__(self, stream: Stream, place: int) -> None:
        self.stream, self.place = stream, place

    def install(self, part: Any) -> None:
        part.streamed = self
        part.register_forward_pre_hook(self._before, with_kwargs=True)
        part.register_forward_hook(self._behind, with_kwargs=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hooks:
        raise TypeError("a part of a streamed model has no bytes to copy")

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.stream.enter(self.place)
        inputs = [t for t in _tensors((args, kwargs)) if t.requires_grad] if torch.is_grad_enabled() else []
        done = _AllThere(len(inputs), self._backward_done)
        for tensor in inputs:
            tensor.register_hook(done)  # type: ignore[no-untyped-call]

    def _behind(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        outputs = [t for t in _tensors(output) if t.requires_grad] if torch.is_grad_enabled() else []
        for tensor in outputs:
            tensor.register_hook(self._backward_begins)  # type: ignore[no-untyped-call]
        self.stream.leave(self.place, backward_follows=bool(outputs))

    def _backward_begins(self, _: Tensor) -> None:
        self.stream.enter_backward(self.place)

    def _backward_done(self) -> None:
        self.stream.leave_backward(self.place)


class _AllThere:
    """A hook for several gradients that calls ``done`` when each of them has been computed. One that never is does no harm: the place
    before this one ends it too.

    Not torch's ``register_multi_grad_hook``: its hooks hold the graph that holds them, and no collector sees that circle. The graph of
    every row would stay, and with recomputed activations what the last layer was given.
    """

    __slots__ = ("_count", "_done", "_left")

    def __init__(self, count: int, done: Callable[[], None]) -> None:
        self._count = self._left = count
        self._done = done

    def __call__(self, _: Tensor) -> None:
        self._left -= 1
        if self._left == 0:
            self._left = self._count
            self._done()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)
