"""The changes that the ablation adds one after another. Compiling is the alternative to some of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from benches.gpu.product import (
    Adapter,
    CompiledLayers,
    CudaRecorder,
    EpochPlan,
    Forward,
    Graphs,
    LoraSpec,
    PreparedDataset,
    add_lora,
    fuse,
    ladder,
    layers_to_compile,
    patch,
    row_sizes,
)
from benches.gpu.training import MakePass

Adapt = Callable[[nn.Module, LoraSpec], nn.Module]


@dataclass(frozen=True, slots=True)
class Variant:
    """One more change, with those of the variants before it; compiled layers are in place of groups and operations.

    Attributes:
        adapt: puts the adapter on a base model.
        row_pass: how rows are run; None: every operation is launched by Python.
    """

    name: str
    adapt: Adapt
    row_pass: MakePass | None = None


def _plain(base: nn.Module, spec: LoraSpec) -> nn.Module:
    return add_lora(base, spec, seed=0, kernels="off")


def _fused(base: nn.Module, spec: LoraSpec) -> nn.Module:
    model = _plain(base, spec)
    fuse(model, kernels=False)
    return model


def _grouped(base: nn.Module, spec: LoraSpec) -> nn.Module:
    model = _fused(base, spec)
    patch(model, kernels=False)
    return model


def everything(base: nn.Module, spec: LoraSpec) -> nn.Module:
    """As a run does it by default."""
    return add_lora(base, spec, seed=0)


def _compiled(base: nn.Module, spec: LoraSpec) -> nn.Module:
    model = _fused(base, spec)
    CompiledLayers(layers_to_compile(model), whole=True)
    return model


def graphed(forward: Forward, adapter: Adapter, data: PreparedDataset, plan: EpochPlan) -> Graphs:
    """Rows of a few sizes, captured and replayed."""
    sizes = row_sizes(plan, data.lengths, data.supervised)
    return Graphs(forward, adapter, ladder(sizes, int(data.lengths.max())), CudaRecorder())


LADDER = (
    Variant("transformers' and PEFT's own layers", _plain),
    Variant("+ LoRA products into the flat gradient", _fused),
    Variant("+ groups (q/k/v, gate/up)", _grouped),
    Variant("+ operations (Triton), as `kernels: auto`", everything),
    Variant("+ graphs, as `cuda_graphs: auto`", everything, graphed),
)
INSTEAD = (
    Variant("LoRA products + compile, as `torch_compile` without kernels", _compiled),
    Variant("LoRA products + compile + graphs", _compiled, graphed),
)
"""Compiling takes half a minute, once: these come last."""


def missing(package: str) -> str | None:
    """A sentence for a package that an item could use and that is not here."""
    return None if importlib.util.find_spec(package) else f"{package} is not installed: not measured"
