"""Rotary position embedding (Su et al. 2021) of queries and keys, with or without a norm on each head before it.

For a head x = [x₁ | x₂] of width D at a position whose tables are cos = [c₁ | c₂] and sin = [s₁ | s₂]; every product and
sum is rounded to the model's dtype, as transformers' ``apply_rotary_pos_emb`` does it::

    z = RMSNorm(x, w)  (Qwen3)   or   z = x  (Llama, Mistral, Qwen2)
    y₁ = z₁·c₁ − z₂·s₁           y₂ = z₂·c₂ + z₁·s₂

Backward::

    ∂z₁ = ∂y₁·c₁ + ∂y₂·s₂        ∂z₂ = ∂y₂·c₂ − ∂y₁·s₁        ∂x as that of RMSNorm

One instance per token does all of its query heads and then all of its key heads: one launch each way. The tables come
from the model's own rotary embedding, so its scaling and our position ids are in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qlora_fast.model.kernels import rms_norm
from qlora_fast.model.kernels.launch import Program, power_of_two

if TYPE_CHECKING:
    import triton.language as tl


@dataclass(frozen=True, slots=True)
class Norms:
    """The frozen norms of the heads: weights (D,) of queries and of keys."""

    queries: Tensor
    keys: Tensor
    eps: float


def reference(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, norms: Norms | None) -> tuple[Tensor, Tensor]:
    """In plain torch.

    Args:
        q: (B, S, H, D). k: (B, S, G, D). cos, sin: (B or 1, S, D).

    Returns:
        Queries and keys, rotated, shaped as they came.
    """
    if norms is not None:
        q = rms_norm.reference(q, norms.queries, norms.eps)
        k = rms_norm.reference(k, norms.keys, norms.eps)
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    return q * cos + _rotated(q) * sin, k * cos + _rotated(k) * sin


def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, norms: Norms | None) -> tuple[Tensor, Tensor]:
    """:func:`reference`, one launch each way; a compiler is given the formula."""
    if torch.compiler.is_compiling():
        return reference(q, k, cos, sin, norms)
    out: tuple[Tensor, Tensor] = _Rope.apply(q, k, cos, sin, norms)
    return out


def _rotated(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def forward(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, norms: Norms | None) -> tuple[Tensor, Tensor]:
    """Queries and keys, rotated. All tensors are contiguous."""
    q_out, k_out = torch.empty_like(q), torch.empty_like(k)
    tensors = {"q_ptr": q, "k_ptr": k, "cos_ptr": cos, "sin_ptr": sin, **_weights(norms, q)}
    _launch(FORWARD, {**tensors, "q_out_ptr": q_out, "k_out_ptr": k_out}, q, k, cos, norms)
    return q_out, k_out


def backward(
    upstream: tuple[Tensor, Tensor], inputs: tuple[Tensor, Tensor] | None, cos: Tensor, sin: Tensor, norms: Norms | None
) -> tuple[Tensor, Tensor]:
    """(∂q, ∂k).

    Args:
        upstream: gradients of what :func:`forward` gave. inputs: q and k; they are read only where there are norms.
    """
    gq, gk = upstream
    q, k = inputs or upstream
    dq, dk = torch.empty_like(gq), torch.empty_like(gk)
    tensors = {"gq_ptr": gq, "gk_ptr": gk, "q_ptr": q, "k_ptr": k, "cos_ptr": cos, "sin_ptr": sin}
    _launch(BACKWARD, {**tensors, **_weights(norms, q), "dq_ptr": dq, "dk_ptr": dk}, gq, gk, cos, norms)
    return dq, dk


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, norms: Norms | None) -> tuple[Tensor, Tensor]:
        q, k, cos, sin = (t.contiguous() for t in (q, k, cos, sin))
        # The gradient of a rotation does not need what was rotated; that of a norm does.
        ctx.save_for_backward(cos, sin, *(() if norms is None else (q, k)))
        ctx.norms = norms
        return forward(q, k, cos, sin, norms)

    @staticmethod
    def backward(ctx: Any, q_up: Tensor, k_up: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        cos, sin, *inputs = ctx.saved_tensors
        upstream = (q_up.contiguous(), k_up.contiguous())
        dq, dk = backward(upstream, (inputs[0], inputs[1]) if inputs else None, cos, sin, ctx.norms)
        return dq, dk, None, None, None


def _weights(norms: Norms | None, unread: Tensor) -> dict[str, Tensor]:
    return {"qw_ptr": norms.queries if norms else unread, "kw_ptr": norms.keys if norms else unread}


def _launch(program: Program, tensors: dict[str, Any], q: Tensor, k: Tensor, cos: Tensor, norms: Norms | None) -> None:
    heads, groups, width = q.shape[-2], k.shape[-2], q.shape[-1]
    tokens = q.numel() // (heads * width)
    numbers = {"heads": heads, "groups": groups, "table": cos.numel() // width, "eps": norms.eps if norms else 0.0}
    half = width // 2
    constants = {"HALF": half, "WIDE": power_of_two(half), "Q": power_of_two(heads), "K": power_of_two(groups)}
    constants["NORM"] = norms is not None
    program.launch((tokens,), {**tensors, **numbers}, constants)


def _rope_forward(
    q_ptr, k_ptr, cos_ptr, sin_ptr, qw_ptr, kw_ptr, q_out_ptr, k_out_ptr, heads, groups, table, eps,
    HALF: tl.constexpr, WIDE: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDE)[None, :]
    there = column < HALF
    place = (token % table) * (2 * HALF) + column
    c1 = tl.load(cos_ptr + place, mask=there, other=0.0).to(tl.float32)
    c2 = tl.load(cos_ptr + place + HALF, mask=there, other=0.0).to(tl.float32)
    s1 = tl.load(sin_ptr + place, mask=there, other=0.0).to(tl.float32)
    s2 = tl.load(sin_ptr + place + HALF, mask=there, other=0.0).to(tl.float32)
    kind = q_out_ptr.dtype.element_ty
    for part in tl.static_range(2):
        if part == 0:
            source, weight, target, count, head = q_ptr, qw_ptr, q_out_ptr, heads, tl.arange(0, Q)[:, None]
        else:
            source, weight, target, count, head = k_ptr, kw_ptr, k_out_ptr, groups, tl.arange(0, K)[:, None]
        at = token * count * (2 * HALF) + head * (2 * HALF) + column
        inside = (head < count) & there
        a = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(source + at + HALF, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            r = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + eps)[:, None]
            wa = tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
            wb = tl.load(weight + HALF + column, mask=there, other=0.0).to(tl.float32)
            a = ((a * r).to(kind).to(tl.float32) * wa).to(kind).to(tl.float32)
            b = ((b * r).to(kind).to(tl.float32) * wb).to(kind).to(tl.float32)
        y1 = (a * c1).to(kind).to(tl.float32) - (b * s1).to(kind).to(tl.float32)
        y2 = (b * c2).to(kind).to(tl.float32) + (a * s2).to(kind).to(tl.float32)
        tl.store(target + at, y1.to(kind), mask=inside)
        tl.store(target + at + HALF, y2.to(kind), mask=inside)


def _rope_backward(
    gq_ptr, gk_ptr, q_ptr, k_ptr, cos_ptr, sin_ptr, qw_ptr, kw_ptr, dq_ptr, dk_ptr, heads, groups, table, eps,
    HALF: tl.constexpr, WIDE: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDE)[None, :]
    there = column < HALF
    place = (token % table) * (2 * HALF) + column
    c1 = tl.load(cos_ptr + place, mask=there, other=0.0).to(tl.float32)
    c2 = tl.load(cos_ptr + place + HALF, mask=there, other=0.0).to(tl.float32)
    s1 = tl.load(sin_ptr + place, mask=there, other=0.0).to(tl.float32)
    s2 = tl.load(sin_ptr + place + HALF, mask=there, other=0.0).to(tl.float32)
    kind = dq_ptr.dtype.element_ty
    for part in tl.static_range(2):
        if part == 0:
            up, source, weight, target, count, head = gq_ptr, q_ptr, qw_ptr, dq_ptr, heads, tl.arange(0, Q)[:, None]
        else:
            up, source, weight, target, count, head = gk_ptr, k_ptr, kw_ptr, dk_ptr, groups, tl.arange(0, K)[:, None]
        at = token * count * (2 * HALF) + head * (2 * HALF) + column
        inside = (head < count) & there
        g1 = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
        g2 = tl.load(up + at + HALF, mask=inside, other=0.0).to(tl.float32)
        da = ((g1 * c1).to(kind).to(tl.float32) + (g2 * s2).to(kind).to(tl.float32)).to(kind)
        db = ((g2 * c2).to(kind).to(tl.float32) - (g1 * s1).to(kind).to(tl.float32)).to(kind)
        if NORM:
            a = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(source + at + HALF, mask=inside, other=0.0).to(tl.float32)
            r = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + eps)[:, None]
            a = a * r
            b = b * r
            wa = tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
            wb = tl.load(weight + HALF + column, mask=there, other=0.0).to(tl.float32)
            ga = (da.to(tl.float32) * wa).to(kind).to(tl.float32)
            gb = (db.to(tl.float32) * wb).to(kind).to(tl.float32)
            mean = ((tl.sum(ga * a, 1) + tl.sum(gb * b, 1)) / (2 * HALF))[:, None]
            da = (r * (ga - a * mean)).to(kind)
            db = (r * (gb - b * mean)).to(kind)
        tl.store(target + at, da, mask=inside)
        tl.store(target + at + HALF, db, mask=inside)


FORWARD = Program(_rope_forward)
BACKWARD = Program(_rope_backward)
