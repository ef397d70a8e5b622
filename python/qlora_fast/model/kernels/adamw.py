"""Clipping, AdamW (Loshchilov & Hutter 2019) and the 16-bit copy that the model multiplies with, in one pass.

For a gradient of norm ‖g‖ (of the whole vector, computed before), rate η and update t::

    g ← g · min(1, limit / (‖g‖ + 10⁻⁶))              (limit 0: never)
    m ← β₁·m + (1 − β₁)·g        v ← β₂·v + (1 − β₂)·g²
    p ← p·(1 − η·λ) − η / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
    seen ← round(p)        g ← 0

Where ‖g‖ is not finite only g is set to 0. The rate, the norm and the powers βᵗ are read on the device: nothing waits, and
a captured graph sees the values of its replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qlora_fast.model.kernels.launch import Program

if TYPE_CHECKING:
    import triton.language as tl

_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Vectors:
    """What an update reads and writes, all (P,): weights, gradient and moments in fp32, ``seen`` in the model's dtype.

    ``seen`` may be the weights themselves.
    """

    weights: Tensor
    gradient: Tensor
    mean: Tensor
    square: Tensor
    seen: Tensor


@dataclass(frozen=True, slots=True)
class Settings:
    """Numbers that stay the same for all updates."""

    betas: tuple[float, float]
    eps: float
    decay: float
    limit: float


def reference(vectors: Vectors, norm: Tensor, rate: Tensor, powers: Tensor, settings: Settings) -> None:
    """In plain torch.

    Args:
        norm: the gradient's norm. rate: η. Both are fp32 scalars on the device. powers: (2,), β₁ᵗ and β₂ᵗ in fp64.
    """
    beta1, beta2 = settings.betas
    good = norm.isfinite()
    share = (settings.limit / (norm + 1e-6)).clamp(max=1.0) if settings.limit > 0 else 1.0
    g = vectors.gradient * share
    mean = beta1 * vectors.mean + (1 - beta1) * g
    square = beta2 * vectors.square + (1 - beta2) * g * g
    rest1, rest2 = (1.0 - powers).unbind()
    denominator = square.sqrt() / rest2.sqrt().float() + settings.eps
    weights = vectors.weights * (1 - rate * settings.decay) - (rate / rest1).float() * (mean / denominator)
    vectors.mean.copy_(torch.where(good, mean, vectors.mean))
    vectors.square.copy_(torch.where(good, square, vectors.square))
    vectors.weights.copy_(torch.where(good, weights, vectors.weights))
    if vectors.seen is not vectors.weights:
        vectors.seen.copy_(vectors.weights)
    vectors.gradient.zero_()


def update(vectors: Vectors, norm: Tensor, rate: Tensor, powers: Tensor, settings: Settings) -> None:
    """:func:`reference` in one launch."""
    count = vectors.weights.numel()
    tensors = {
        "p_ptr": vectors.weights,
        "g_ptr": vectors.gradient,
        "m_ptr": vectors.mean,
        "v_ptr": vectors.square,
        "seen_ptr": vectors.seen,
        "norm_ptr": norm,
        "rate_ptr": rate,
        "power_ptr": powers,
    }
    numbers = {"beta1": settings.betas[0], "beta2": settings.betas[1], "eps": settings.eps, "decay": settings.decay}
    constants = {"CLIP": settings.limit > 0, "BLOCK": _BLOCK}
    arguments = {**tensors, **numbers, "limit": settings.limit, "n": count}
    PROGRAM.launch((-(-count // _BLOCK),), arguments, constants)


def _adamw(
    p_ptr, g_ptr, m_ptr, v_ptr, seen_ptr, norm_ptr, rate_ptr, power_ptr, beta1, beta2, eps, decay, limit, n,
    CLIP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    norm = tl.load(norm_ptr)
    rate = tl.load(rate_ptr)
    rest1 = (1.0 - tl.load(power_ptr)).to(tl.float32)
    rest2 = (1.0 - tl.load(power_ptr + 1)).to(tl.float32)
    good = tl.abs(norm) < float("inf")
    p = tl.load(p_ptr + at, mask=inside, other=0.0)
    g = tl.load(g_ptr + at, mask=inside, other=0.0)
    m = tl.load(m_ptr + at, mask=inside, other=0.0)
    v = tl.load(v_ptr + at, mask=inside, other=0.0)
    if CLIP:
        g = g * tl.minimum(limit / (norm + 1e-6), 1.0)
    m_new = beta1 * m + (1.0 - beta1) * g
    v_new = beta2 * v + (1.0 - beta2) * g * g
    p_new = p * (1.0 - rate * decay) - rate / rest1 * (m_new / (tl.sqrt(v_new) / tl.sqrt(rest2) + eps))
    p = tl.where(good, p_new, p)
    tl.store(p_ptr + at, p, mask=inside)
    tl.store(m_ptr + at, tl.where(good, m_new, m), mask=inside)
    tl.store(v_ptr + at, tl.where(good, v_new, v), mask=inside)
    tl.store(seen_ptr + at, p.to(seen_ptr.dtype.element_ty), mask=inside)
    tl.store(g_ptr + at, tl.zeros_like(g), mask=inside)


PROGRAM = Program(_adamw)
