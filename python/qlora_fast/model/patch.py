"""Modules of transformers that compute by our kernels and by grouped projections, found by their type.

A type is taken when it is in :data:`ARCHITECTURES` and a small copy of it gives the same numbers patched as not: a version of
transformers that computes another formula keeps its own code, as does every type that is not listed. Patched are single
modules of one model; classes and other models stay as they are.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from qlora_fast.config.keys.model import Kernels
from qlora_fast.model import host
from qlora_fast.model.architectures import ARCHITECTURES
from qlora_fast.model.fused_lora import fuse
from qlora_fast.model.kernels import launch, rms_norm
from qlora_fast.model.patched_modules import agrees, fits, install
from qlora_fast.model.products import EXACT, TORCH, Products, Wanted, choose
from qlora_fast.model.streamed.hooks import stream_of

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Patched:
    """What was patched, for the log and run.json.

    Attributes:
        fused: LoRA layers whose product is ours.
        kernels: whether Triton programs run; ``reason`` says why not.
        products: by which library the frozen layers multiply.
        modules: how many modules of each class were patched.
        kept: classes that were expected to fit and do not.
    """

    fused: int = 0
    kernels: bool = False
    reason: str | None = None
    products: Products = TORCH
    modules: Counter[str] = field(default_factory=Counter)
    kept: set[str] = field(default_factory=set)

    @property
    def whole_layers(self) -> bool:
        """Whether our kernels compute the decoder layers."""
        whole = [family for family in ARCHITECTURES.values() if family.whole_layers]
        return self.kernels and any({family.mlp, family.attention} <= self.modules.keys() for family in whole)

    def described(self) -> dict[str, Any]:
        """For a JSON file."""
        found: dict[str, Any] = {
            "triton": self.kernels,
            "lora_layers": self.fused,
            "products": self.products.described(),
            "modules": dict(sorted(self.modules.items())),
        }
        if self.reason is not None:
            found["reason"] = self.reason
        if self.kept:
            found["kept"] = sorted(self.kept)
        return found


def speed_up(model: nn.Module, setting: Kernels = "auto", wanted: Wanted = EXACT) -> Patched:
    """Let a model with an adapter compute by our code as far as it is as exact and faster on its device.

    On a GPU that is everything here. On a CPU it is the product of each LoRA layer, by the library that is fastest: groups were
    measured to be no faster there.

    Args:
        setting: ``off`` keeps transformers' and PEFT's own code everywhere.
        wanted: of the products with frozen weights on a CPU; see :mod:`~qlora_fast.model.products`.
    """
    if setting == "off":
        report = Patched(reason="kernels: off", products=Products("torch", "torch", "kernels: off"))
    else:
        device = next(model.parameters()).device
        reason = unusable(device)
        products = _products(model, device, wanted)
        fused = fuse(model, kernels=reason is None, products=products)
        report = Patched(reason=reason) if device.type == "cpu" else patch(model, kernels=reason is None, reason=reason)
        report.fused, report.products = fused, products
    model.speed_up = report  # type: ignore[assignment]
    return report


def _products(model: Any, device: torch.device, wanted: Wanted) -> Products:
    """The fastest ways to multiply with the frozen layers that are not quantized."""
    layers = [m for m in model.modules() if type(m) is nn.Linear and not m.weight.requires_grad]
    shapes = [(m.out_features, m.in_features) for m in layers if m is not model.get_output_embeddings()]
    # A second copy of the weights, in 16 bits, has to fit beside everything else; a base that is streamed is not to stay.
    # How much is free at this moment does not take a run that had room for it off its bits.
    room = host.memory().available * (0.25 if wanted.kept is None else 0.75) / wanted.processes
    fits = 2 * sum(n * d for n, d in shapes) < room
    rounding = wanted.rounding and fits and stream_of(model) is None
    dtype = model.get_input_embeddings().weight.dtype
    found = choose(shapes, dtype, device, rounding=rounding, kept=wanted.kept)
    ways = found.ways if wanted.agree is None else wanted.agree(found)
    if ways == found.ways:
        return found
    return replace(found, exact=ways[0], training=ways[1], why=f"as on all ranks; here {found.why}")


def report_of(model: nn.Module) -> Patched:
    """What :func:`speed_up` did to a model."""
    return getattr(model, "speed_up", None) or Patched(reason="nothing was asked for")


def unusable(device: torch.device) -> str | None:
    """Why Triton programs do not run on a device, or None: tried with one launch, not concluded from what is installed."""
    if device.type != "cuda":
        return f"the device is a {device.type.upper()}"
    if (reason := launch.missing()) is not None:
        return reason
    try:
        x = torch.ones(1, 32, device=device)
        rms_norm.forward(x, x[0], 1e-6, False)
        torch.cuda.synchronize(device)
    except Exception as error:  # whatever stands in the way of a compiler or a driver
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return f"a first launch failed ({first})"
    return None


def patch(model: nn.Module, *, kernels: bool, reason: str | None = None) -> Patched:
    """Patch the modules of a model, adapters included.

    Args:
        kernels: whether to launch Triton programs; else the same formulas run in plain torch, and only projections are grouped.
        reason: why not, for the report.
    """
    report = Patched(kernels=kernels, reason=reason)
    known = dict(_known())
    for module in list(model.modules()):
        found = known.get(type(module))
        if found is None:
            continue
        kind, plus_one = found
        name = type(module).__name__
        if kind == "norm" and not kernels:
            continue
        if not fits(module, kind) or not agrees(type(module), kind, plus_one, model):
            report.kept.add(name)
            continue
        install(module, kind, plus_one, kernels)
        report.modules[name] += 1
    if report.kept:
        log.info(
            "kernels: %s computes another formula here and keeps transformers' code", ", ".join(sorted(report.kept))
        )
    return report


def _known() -> Iterator[tuple[type[nn.Module], tuple[str, bool]]]:
    """The classes that are loaded: a model of a class that is not cannot be here."""
    for family, architecture in ARCHITECTURES.items():
        source = sys.modules.get(f"transformers.models.{family}.modeling_{family}")
        for kind in ("norm", "mlp", "attention"):
            name = getattr(architecture, kind)
            if source is not None and name is not None and hasattr(source, name):
                yield getattr(source, name), (kind, architecture.plus_one)
