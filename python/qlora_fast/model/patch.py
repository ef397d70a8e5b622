"""Modules of transformers that compute by our kernels and by grouped projections, found by their type.

A type is taken when it is in :data:`ARCHITECTURES` and a small copy of it gives the same numbers patched as not: a version of
transformers that computes another formula keeps its own code, as does every type that is not listed. Patched are single
modules of one model; classes and other models stay as they are.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from qlora_fast.config.keys.model import Kernels
from qlora_fast.model import host
from qlora_fast.model.architectures import ARCHITECTURES
from qlora_fast.model.fused_lora import fuse
from qlora_fast.model.kernels import launch, rms_norm, rope, swiglu
from qlora_fast.model.patched_class import patch_class
from qlora_fast.model.products import EXACT, TORCH, Products, Wanted, choose
from qlora_fast.model.projections import Projections
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
        if not _fits(module, kind) or not _agrees(type(module), kind, plus_one, model):
            report.kept.add(name)
            continue
        _install(module, kind, plus_one, kernels)
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


def _install(module: Any, kind: str, plus_one: bool, kernels: bool) -> None:
    module.kernels, module.plus_one = kernels, plus_one
    if kind == "mlp":
        module.projections = Projections([module.gate_proj, module.up_proj], kernels=kernels)
    elif kind == "attention":
        module.projections = Projections([module.q_proj, module.k_proj, module.v_proj], kernels=kernels)
    patch_class(module, {"norm": _Norm, "mlp": _Mlp, "attention": _Attention}[kind])


class _Norm:
    def forward(self: Any, x: Tensor) -> Tensor:
        weight = self.weight
        if weight.requires_grad or weight.dtype != x.dtype:
            return super().forward(x)  # type: ignore[misc, no-any-return]
        return rms_norm.rms_norm(x, weight, _epsilon(self), self.plus_one)


class _Mlp:
    def forward(self: Any, x: Tensor) -> Tensor:
        gate, up = self.projections(x)
        gated = swiglu.swiglu(gate, up) if self.kernels else swiglu.reference(gate, up)
        return self.down_proj(gated)  # type: ignore[no-any-return]


class _Attention:
    """Projections in a group, norms of the heads and rotation in one launch."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if options.get("cache") is not None or options.get("past_key_values") is not None:
            arguments = {"position_embeddings": position_embeddings, "attention_mask": attention_mask, **options}
            return super().forward(hidden_states, **arguments)  # type: ignore[misc, no-any-return]
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        q, k, v = (out.view(shape) for out in self.projections(hidden_states))
        if position_embeddings is not None and getattr(self, "use_rope", True):
            q, k = _rotate(self, q, k, *position_embeddings)
        eager = sys.modules[type(self).__module__].eager_attention_forward
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager)
        out, weights = attend(
            self,
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **_window(self),
            **options,
        )
        return self.o_proj(out.reshape(*hidden_states.shape[:-1], self.o_proj.in_features)), weights


def _rotate(module: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    norms = None
    if hasattr(module, "q_norm"):
        weights = (module.q_norm.weight, module.k_norm.weight)
        if any(w.requires_grad or w.dtype != q.dtype for w in weights):
            q, k = module.q_norm(q), module.k_norm(k)
        else:
            norms = rope.Norms(*weights, _epsilon(module.q_norm))
    function: Callable[..., tuple[Tensor, Tensor]] = rope.rope if module.kernels else rope.reference
    return function(q, k, cos, sin, norms)


def _window(module: Any) -> dict[str, int | None]:
    """The sliding window as the classes pass it on: their own, Mistral that of its config, Llama none."""
    if hasattr(module, "sliding_window"):
        return {"sliding_window": module.sliding_window}
    if type(module).__name__ == "MistralAttention":
        return {"sliding_window": getattr(module.config, "sliding_window", None)}
    return {}


def _epsilon(norm: Any) -> float:
    return float(norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps)


def _fits(module: Any, kind: str) -> bool:
    """What a module of the right class may still have otherwise: its activation, unequal norms, a hook of another library."""
    if "forward" in vars(module):
        return False
    if kind == "mlp":
        return type(module.act_fn) in _silu_types()
    if kind == "attention":
        norms = [getattr(module, name) for name in ("q_norm", "k_norm") if hasattr(module, name)]
        return len({_epsilon(norm) for norm in norms}) < 2 and module.head_dim % 2 == 0
    return True


def _silu_types() -> set[type[nn.Module]]:
    from transformers import activations

    return {nn.SiLU, getattr(activations, "SiLUActivation", nn.SiLU)}


def _agrees(cls: Any, kind: str, plus_one: bool, model: Any) -> bool:
    """Whether a small module of the class gives the same numbers patched, in plain torch on the CPU, as it does itself."""
    config = copy.deepcopy(model.config.get_text_config())
    key = (cls, type(config), getattr(config, "hidden_act", None))
    if key not in _agreed:
        try:
            _agreed[key] = _same_numbers(cls, kind, plus_one, config)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            log.debug("kernels: %s cannot be compared: %r", cls.__name__, error)
            _agreed[key] = False
    return _agreed[key]


_agreed: dict[Any, bool] = {}


def _same_numbers(cls: Any, kind: str, plus_one: bool, config: Any) -> bool:
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.manual_seed(0)
        own, inputs = _small(cls, kind, config)
        for parameter in own.parameters():
            parameter.normal_(std=0.3)
        own = own.float().requires_grad_(False).eval()
        patched = copy.deepcopy(own)
        if kind == "norm":
            weight: Any = patched.weight
            ours = rms_norm.reference(inputs["x"], weight, _epsilon(patched), plus_one)
            theirs = own(inputs["x"])
        else:
            _install(patched, kind, plus_one, kernels=False)
            ours, theirs = patched(**inputs), own(**inputs)
        if isinstance(ours, tuple):
            ours, theirs = ours[0], theirs[0]
        return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def _small(cls: Any, kind: str, config: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A module of the class of width 16, and inputs for it."""
    x = torch.randn(2, 5, 16)
    if kind == "norm":
        return cls(16, 1e-3), {"x": x}
    config.hidden_size, config.intermediate_size, config.head_dim = 16, 24, 8
    config.num_attention_heads, config.num_key_value_heads = 2, 1
    config._attn_implementation = "eager"
    if kind == "mlp":
        return cls(config), {"x": x}
    tables = torch.randn(2, 1, 5, 8)
    return cls(config, 0), {"hidden_states": x, "position_embeddings": (tables[0], tables[1]), "attention_mask": None}
