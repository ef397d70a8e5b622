"""Decoder layers that torch.compile has compiled, one code for all of them.

A layer is compiled as a function of the layer: its weights are inputs of the code, so what one layer was compiled to runs the
others, and the time that compiling takes does not depend on how many there are. Lengths of rows are variables of the code: ten
different rows are one graph. Whatever our own modules compute inside of a layer is given to the compiler as plain torch.

Two things stay as Python runs them: passes without a gradient (scores, evaluations, the self-check of packing), and the
first layer, whose input has no gradient, so that it would be compiled to a code of its own.
"""

from __future__ import annotations

import logging
import shutil
import sysconfig
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qlora_fast.errors import first_line
from qlora_fast.model.patch import unusable
from qlora_fast.model.patched_class import patch_class

log = logging.getLogger(__name__)


class CompiledLayers:
    """The layers of a model that run compiled code in passes with a gradient.

    Args:
        layers: all of one model. whole: whether a layer has to be a single graph; else it may be left for what the compiler
            does not take, such as attention that runs sample by sample.

    Attributes:
        on: whether they do so now. Turning it off gives the layers' own code back.
        problem: what stopped it while the run went on.
    """

    def __init__(self, layers: list[nn.Module], *, whole: bool) -> None:
        self.layers = layers
        self.whole = whole
        self.on = True
        self.problem = ""
        for layer in layers:
            layer.compiled = self  # type: ignore[assignment]
            if not isinstance(layer, _Compiled):
                patch_class(layer, _Compiled)

    def stop(self, problem: str) -> None:
        """From now on the layers' own code runs, which computes the same."""
        self.on, self.problem = False, problem
        log.warning("torch_compile: the layers run their own code from here on: %s", problem)


class _Compiled:
    def forward(self: Any, *args: Any, **options: Any) -> Any:
        compiled: CompiledLayers = self.compiled
        plain = super().forward  # type: ignore[misc]
        if compiled.on and torch.is_grad_enabled():
            try:
                return _function(plain.__func__, compiled.whole)(self, *args, **options)
            except failures() as error:
                compiled.stop(first_line(error))
        return plain(*args, **options)


@lru_cache(maxsize=64)
def _function(forward: Callable[..., Any], whole: bool) -> Callable[..., Any]:
    """One for each class of layers, and for all models of it: it is compiled once a process."""
    return torch.compile(forward, dynamic=True, fullgraph=whole)


def layers_to_compile(model: Any) -> list[nn.Module]:
    """Every decoder layer but the first; none where the decoder keeps them under another name."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return list(getattr(inner.get_decoder(), "layers", ()))[1:]


def failures() -> tuple[type[Exception], ...]:
    """What torch.compile raises for code that it cannot compile. (The compiler takes a second to be imported.)"""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    return TorchDynamoException, FailOnRecompileLimitHit


def missing(device: torch.device) -> str | None:
    """What torch.compile lacks to compile for a device, or None."""
    if device.type == "cuda":
        return unusable(device)  # it writes Triton programs
    from torch._inductor import config

    names = [name for name in config.cpp.cxx if name]
    if not any(shutil.which(name) for name in names):
        return f"there is no C++ compiler ({', '.join(names)})"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "there are no headers of Python (Python.h)"
    return None
