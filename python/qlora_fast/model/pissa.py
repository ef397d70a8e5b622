"""PiSSA (Meng et al. 2024): an adapter that starts from the base's largest singular directions, saved as a plain one.

While it is trained the base is W' = W − s·B₀A₀ and the adapter starts as (A₀, B₀). A folder that held (A, B) would fit
only W', which is not published. What is saved is the difference, as an adapter of twice the rank on the original W::

    W' + s·B·A  =  W + s·[B | −B₀]·[A ; A₀]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_A, _B = ".lora_A.", ".lora_B."


class Origin:
    """Where each PiSSA adapter of a model started: A₀ and B₀, on the host in fp32, by their stored names."""

    def __init__(self, model: nn.Module, start: Mapping[str, Tensor]) -> None:
        self._model = model
        self._start = {name: value for name, value in start.items() if _A in name or _B in name}

    def widen(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Trained matrices as those of the plain adapter of twice the rank."""
        return {name: self._join(name, value) for name, value in tensors.items()}

    def narrow(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The trained matrices back from what :meth:`widen` gave, and the base as it was beside them.

        The decomposition is the same bits on the same machine. On another one it may not be: then the base is moved by
        the difference of the two starts.
        """
        trained = dict(stored)
        start: dict[str, Tensor] = {}
        for name in self._start:
            if name in stored:
                halves = torch.chunk(stored[name], 2, _rank_dim(name))
                trained[name], start[name] = (half.contiguous() for half in halves)
        start = {name: -value if _B in name else value for name, value in start.items()}
        for name, value in start.items():
            if _B in name and value.shape == self._start[name].shape:
                self._move_base(name, value, start[name.replace(_B, _A)])
        return trained

    def _join(self, name: str, value: Tensor) -> Tensor:
        if name not in self._start:
            return value
        start = self._start[name]
        return torch.cat([value, -start if _B in name else start], _rank_dim(name))

    def _move_base(self, name: str, b: Tensor, a: Tensor) -> None:
        a0, b0 = self._start[name.replace(_B, _A)], self._start[name]
        if torch.equal(a, a0) and torch.equal(b, b0):
            return
        layer: Any = self._model.get_submodule(name.split(_B)[0])
        weight = layer.get_base_layer().weight
        difference = layer.scaling["default"] * (b0 @ a0 - b @ a)
        weight.data = (weight.data.float() + difference.to(weight.device)).to(weight.dtype)
        self._start[name], self._start[name.replace(_B, _A)] = b, a


def is_pissa(model: nn.Module) -> bool:
    """Whether a PEFT model was started this way."""
    config = getattr(model, "peft_config", {}).get("default")
    return str(getattr(config, "init_lora_weights", "")).startswith("pissa")


def plain_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The adapter's settings as those of the plain adapter of twice the rank: same scale, no decomposition on loading."""
    growth = 2**0.5 if config["use_rslora"] else 2
    return {**config, "r": 2 * config["r"], "lora_alpha": growth * config["lora_alpha"], "init_lora_weights": True}


def _rank_dim(name: str) -> int:
    """A is (rank, in), B is (out, rank)."""
    return 0 if _A in name else 1
