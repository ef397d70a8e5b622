"""Inputs of a kernel in double precision, whatever they are packed in, for its reference."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import torch


def widened(value: Any) -> Any:
    """The same with every floating tensor in fp64, copied; what is no tensor stays."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value.clone()
    return _each(value, widened)


def copied(value: Any) -> Any:
    """The same with every tensor copied: a kernel may overwrite its inputs."""
    return value.clone() if isinstance(value, torch.Tensor) else _each(value, copied)


def _each(value: Any, change: Any) -> Any:
    if isinstance(value, dict):
        return {name: change(inner) for name, inner in value.items()}
    if isinstance(value, SimpleNamespace):
        return SimpleNamespace(**{name: change(inner) for name, inner in vars(value).items()})
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, tuple):
        inner = [change(item) for item in value]
        return type(value)(*inner) if hasattr(value, "_fields") else tuple(inner)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: change(getattr(value, f.name)) for f in dataclasses.fields(value)})
    return value
