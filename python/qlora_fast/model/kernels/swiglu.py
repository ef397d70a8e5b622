"""SwiGLU: the gate of a Llama-like MLP.

Forward, with the casts of ``act_fn(gate) * up`` in the model's dtype (σ and silu in fp32)::

    a = round(g · σ(g))        y = round(a · u)

Backward; a is computed again from g::

    ∂u = round(∂y · a)        ∂g = round(round(∂y · u) · σ(g) · (1 + g · (1 − σ(g))))

Elementwise: one instance per block of 2,048 values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from qlora_fast.model.kernels.launch import Program

if TYPE_CHECKING:
    import triton.language as tl

_BLOCK = 2048


def reference(gate: Tensor, up: Tensor) -> Tensor:
    """In plain torch. Both arguments have the same shape and dtype."""
    return silu(gate) * up


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """:func:`reference`, one launch each way; a compiler is given the formula."""
    if torch.compiler.is_compiling():
        return reference(gate, up)
    out: Tensor = _SwiGlu.apply(gate, up)
    return out


def forward(gate: Tensor, up: Tensor) -> Tensor:
    """y. Both arguments are contiguous."""
    y = torch.empty_like(gate)
    _launch(FORWARD, {"gate_ptr": gate, "up_ptr": up, "y_ptr": y}, gate.numel())
    return y


def backward(upstream: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """(∂g, ∂u), from ∂y and what the forward pass was given; all are contiguous."""
    d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
    tensors = {"g_ptr": upstream, "gate_ptr": gate, "up_ptr": up, "d_gate_ptr": d_gate, "d_up_ptr": d_up}
    _launch(BACKWARD, tensors, gate.numel())
    return d_gate, d_up


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return forward(gate, up)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return backward(upstream.contiguous(), gate, up)


def _launch(program: Program, tensors: dict[str, Tensor], values: int) -> None:
    program.launch((-(-values // _BLOCK),), {**tensors, "n": values}, {"BLOCK": _BLOCK})


def _swiglu_forward(gate_ptr, up_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    gate = tl.load(gate_ptr + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + at, mask=inside, other=0.0).to(tl.float32)
    act = (gate / (1.0 + tl.exp(-gate))).to(y_ptr.dtype.element_ty).to(tl.float32)
    tl.store(y_ptr + at, (act * up).to(y_ptr.dtype.element_ty), mask=inside)


def _swiglu_backward(g_ptr, gate_ptr, up_ptr, d_gate_ptr, d_up_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    g = tl.load(g_ptr + at, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + at, mask=inside, other=0.0).to(tl.float32)
    sigma = 1.0 / (1.0 + tl.exp(-gate))
    act = (gate * sigma).to(d_up_ptr.dtype.element_ty).to(tl.float32)
    d_act = (g * up).to(d_gate_ptr.dtype.element_ty).to(tl.float32)
    d_gate = d_act * sigma * (1.0 + gate * (1.0 - sigma))
    tl.store(d_up_ptr + at, (g * act).to(d_up_ptr.dtype.element_ty), mask=inside)
    tl.store(d_gate_ptr + at, d_gate.to(d_gate_ptr.dtype.element_ty), mask=inside)


FORWARD = Program(_swiglu_forward)
BACKWARD = Program(_swiglu_backward)
