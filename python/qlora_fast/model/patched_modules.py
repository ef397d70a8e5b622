"""Single modules that compute by our code: their forward passes, whether a module fits, and whether it gives the same numbers."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qlora_fast.model.kernels import rms_norm, rope, swiglu
from qlora_fast.model.patched_class import patch_class
from qlora_fast.model.projections import Projections

log = logging.getLogger(__name__)


def install(module: Any, kind: str, plus_one: bool, kernels: bool) -> None:
    """Let a module compute by our code.

    Args:
        kind: ``norm``, ``mlp`` or ``attention``.
        plus_one: whether its norms multiply by 1 + weight (Gemma's).
        kernels: whether to launch Triton programs; else the same formulas run in plain torch.
    """
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


def fits(module: Any, kind: str) -> bool:
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


def agrees(cls: Any, kind: str, plus_one: bool, model: Any) -> bool:
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
            install(patched, kind, plus_one, kernels=False)
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
