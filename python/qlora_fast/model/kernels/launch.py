"""How a Triton program gets from a Python function to a device, and when it does not.

Triton is imported at the first launch, so that importing a kernel costs nothing and works where Triton is not installed.
A program runs compiled on a CUDA device; where ``TRITON_INTERPRET=1`` is set, Triton's interpreter runs it on CPU tensors
instead (for tests). :func:`recorded` only writes launches down: they carry everything that compiling ahead for another
GPU needs, see ``benches/kernels_aot.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

Body = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch: the program, its grid, and its arguments by name (tensors, numbers, and compile-time constants)."""

    program: Program
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    options: dict[str, Any]


_recording: list[Launch] | None = None
_watchers: list[Callable[[Launch], None]] = []


class Program:
    """A function in Triton's language.

    Args:
        body: the function. Its annotations say which arguments are compile-time constants (``tl.constexpr``).
        contract: whether a product and a sum may become one operation with one rounding. Without it the bits are those of
            separate operations.
    """

    def __init__(self, body: Body, *, contract: bool = True) -> None:
        self.body = body
        self.name = body.__name__.strip("_")
        self.options = {"enable_fp_fusion": contract}
        self._compiled: Any = None
        self._interpreted: Any = None

    def launch(
        self, grid: tuple[int, ...], arguments: dict[str, Any], constants: dict[str, Any], warps: int = 4
    ) -> None:
        """Run ``grid`` instances on the current stream; an empty grid runs nothing.

        Args:
            arguments: tensors and numbers by name, in the order of the body's parameters; the first one is a tensor.
            constants: compile-time constants by name.
            warps: warps of 32 threads that share an instance.
        """
        options = {"num_warps": warps, **self.options}
        if _recording is not None:
            _recording.append(Launch(self, grid, arguments, constants, options))
            return
        if 0 in grid:
            return
        for watcher in _watchers:
            watcher(Launch(self, grid, arguments, constants, options))
        first: Tensor = next(iter(arguments.values()))
        if first.device.type == "cpu":
            self._interpreter()[grid](**arguments, **constants)
        elif first.device.index == torch.cuda.current_device():
            self.jit()[grid](**arguments, **constants, **options)
        else:
            with torch.cuda.device(first.device):
                self.jit()[grid](**arguments, **constants, **options)

    def jit(self) -> Any:
        """Triton's function object, which compiles at the first launch of each signature."""
        if self._compiled is None:
            triton = _triton(self.body)
            self._compiled = triton.JITFunction(self.body)
        return self._compiled

    def _interpreter(self) -> Any:
        if self._interpreted is None:
            triton = _triton(self.body)
            if not triton.knobs.runtime.interpret:
                raise RuntimeError("a Triton program runs on a CPU only by the interpreter: set TRITON_INTERPRET=1")
            from triton.runtime.interpreter import InterpretedFunction

            self._interpreted = InterpretedFunction(self.body)
        return self._interpreted


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Inside, programs are written down and not run: outputs stay as they were allocated, on any device, ``meta`` too."""
    global _recording
    before, _recording = _recording, []
    try:
        yield _recording
    finally:
        _recording = before


@contextmanager
def watched(watcher: Callable[[Launch], None]) -> Iterator[None]:
    """Inside, a function is called with each launch before it runs."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


@lru_cache(maxsize=1)
def missing() -> str | None:
    """Why Triton programs cannot be compiled at all in this process, or None."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"triton cannot be imported ({error})"
    return None


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least ``n``: blocks have such sizes."""
    return 1 << max(0, n - 1).bit_length()


def _triton(body: Body) -> Any:
    """The library; the body, which was defined without it, gets to see its language."""
    import triton

    body.__globals__["tl"] = triton.language
    return triton
