"""The changes that the ablation adds one after another. What the package does not have (yet) is named, never imitated."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from benches.gpu.product import (
    Adapter,
    CudaRecorder,
    EpochPlan,
    Forward,
    Graphs,
    LoraSpec,
    PreparedDataset,
    add_lora,
    fuse,
    ladder,
    patch,
    row_sizes,
)
from benches.gpu.training import MakePass

Adapt = Callable[[nn.Module, LoraSpec], nn.Module]


@dataclass(frozen=True, slots=True)
class Variant:
    """One more change, with those of the variants before it.

    Attributes:
        adapt: puts the adapter on a base model; None for what this version does not have.
        row_pass: how rows are run; None: every operation is launched by Python.
    """

    name: str
    adapt: Adapt | None
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
    Variant("+ compile", None),
)


def missing(package: str) -> str | None:
    """A sentence for a package that an item could use and that is not here."""
    return None if importlib.util.find_spec(package) else f"{package} is not installed: not measured"
