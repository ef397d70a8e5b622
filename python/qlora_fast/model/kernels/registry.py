"""All programs with what tests and benchmarks need: inputs of a shape, the reference, and the bytes that must be moved.

A case is one launch. ``python -m benches.kernels_aot`` compiles each ahead of time, the tests run each interpreted, and the
GPU benchmark times each against the copy bandwidth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from qlora_fast.model.kernels import adamw, cross_entropy, nf4, rms_norm, rope, swiglu

Inputs = dict[str, Any]
Outputs = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a step.

    Attributes:
        tokens: of a row. supervised: positions whose logits are made together. trained: weights of the adapter.
        hidden, inter: widths of a layer and of its MLP. heads, groups: query and key heads. head: width of one.
    """

    tokens: int
    supervised: int
    hidden: int
    inter: int
    heads: int
    groups: int
    head: int
    vocabulary: int
    trained: int


SHAPES = {
    "0.6B": Shape(8192, 1024, 1024, 3072, 16, 8, 128, 151_936, 10_092_544),
    "8B": Shape(8192, 1024, 4096, 12_288, 32, 8, 128, 151_936, 43_646_976),
}
"""Qwen3-0.6B and Qwen3-8B, LoRA of rank 16 on all linear layers."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch.

    Attributes:
        inputs: makes the arguments of ``run`` and ``reference`` by name, for a shape, dtype and device. ``meta`` will do
            where nothing is computed.
        run: launches the program and gives what it wrote. reference: the same in plain torch. Both may overwrite inputs.
        moved: bytes that have to be read and written at least, for a shape and a number of bytes per value.
        narrow: what is read or written in pieces below 16 bytes, beside the tensors that make up ``moved``; "" for nothing.
    """

    name: str
    inputs: Callable[[Shape, torch.dtype, torch.device], Inputs]
    run: Callable[..., Outputs]
    reference: Callable[..., Outputs]
    moved: Callable[[Shape, int], int]
    narrow: str = ""


def _normal(*shape: int, like: tuple[torch.dtype, torch.device], scale: float = 1.0) -> Tensor:
    dtype, device = like
    return torch.randn(shape, dtype=torch.float32, device=device).mul_(scale).to(dtype)


def _grads(function: Callable[..., Any], inputs: tuple[Tensor, ...], upstream: Any) -> Outputs:
    """Gradients by autograd, of the reference."""
    leaves = tuple(t.detach().requires_grad_() for t in inputs)
    return torch.autograd.grad(function(*leaves), leaves, upstream)


def _norm_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Inputs:
    like = (dtype, device)
    return {
        "x": _normal(shape.tokens, shape.hidden, like=like),
        "weight": 1 + _normal(shape.hidden, like=like, scale=0.1),
        "g": _normal(shape.tokens, shape.hidden, like=like),
    }


def _rope_inputs(shape: Shape, dtype: torch.dtype, device: torch.device, normed: bool) -> Inputs:
    like = (dtype, device)

    def heads(count: int) -> Tensor:
        return _normal(1, shape.tokens, count, shape.head, like=like)

    angle = torch.rand(1, shape.tokens, shape.head // 2, device=device) * 6
    cos, sin = (torch.cat([f(angle)] * 2, -1).to(dtype) for f in (torch.cos, torch.sin))
    weights = [1 + _normal(shape.head, like=like, scale=0.1) for _ in range(2)]
    norms = rope.Norms(weights[0], weights[1], 1e-6) if normed else None
    return {
        "q": heads(shape.heads),
        "k": heads(shape.groups),
        "cos": cos,
        "sin": sin,
        "norms": norms,
        "g": (heads(shape.heads), heads(shape.groups)),
    }


def _gate_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Inputs:
    return {name: _normal(shape.tokens, shape.inter, like=(dtype, device)) for name in ("gate", "up", "g")}


def _loss_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Inputs:
    targets = torch.randint(0, shape.vocabulary, (shape.supervised,), device=device)
    return {"logits": _normal(shape.supervised, shape.vocabulary, like=(dtype, device), scale=3.0), "targets": targets}


def _nf4_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Inputs:
    values = shape.hidden * shape.inter
    scales = -(-values // 64)
    code = torch.linspace(-1, 1, 16, device=device)
    second = SimpleNamespace(
        absmax=torch.rand(-(-scales // 256), device=device),
        code=torch.linspace(-1, 1, 256, device=device),
        blocksize=256,
    )
    state = SimpleNamespace(
        absmax=torch.randint(0, 256, (scales,), dtype=torch.uint8, device=device),
        code=code,
        blocksize=64,
        dtype=dtype,
        shape=torch.Size((shape.inter, shape.hidden)),
        nested=True,
        state2=second,
        offset=torch.rand((), device=device),
        quant_type="nf4",
    )
    packed = torch.randint(0, 256, (-(-values // 2), 1), dtype=torch.uint8, device=device)
    return {"packed": packed, "state": state}


def _adamw_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Inputs:
    like = (torch.float32, device)
    weights, gradient, mean = (_normal(shape.trained, like=like) for _ in range(3))
    square = _normal(shape.trained, like=like).square_()
    return {
        "vectors": adamw.Vectors(
            weights, gradient, mean, square, torch.zeros(shape.trained, dtype=dtype, device=device)
        ),
        "norm": torch.linalg.vector_norm(gradient),
        "rate": torch.full((), 1e-3, device=device),
        "powers": torch.tensor([0.9**3, 0.999**3], dtype=torch.float64, device=device),
        "settings": adamw.Settings((0.9, 0.999), 1e-8, 0.1, 1.0),
    }


def _adamw_run(function: Callable[..., None], **inputs: Any) -> Outputs:
    function(**inputs)
    vectors: adamw.Vectors = inputs["vectors"]
    return vectors.weights, vectors.mean, vectors.square, vectors.seen, vectors.gradient


def _rope_case(name: str, normed: bool, backward: bool) -> Kernel:
    def reference(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, norms: Any, g: Any) -> Outputs:
        if not backward:
            return rope.reference(q, k, cos, sin, norms)
        return _grads(lambda a, b: rope.reference(a, b, cos, sin, norms), (q, k), g)

    def run(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, norms: Any, g: Any) -> Outputs:
        return rope.backward(g, (q, k), cos, sin, norms) if backward else rope.forward(q, k, cos, sin, norms)

    passes = 3 if backward and normed else 2
    return Kernel(
        name,
        lambda shape, dtype, device: _rope_inputs(shape, dtype, device, normed),
        run,
        reference,
        lambda s, size: size * s.tokens * s.head * (passes * (s.heads + s.groups) + 2),
        narrow="tables and norm weights, once for all heads",
    )


KERNELS: tuple[Kernel, ...] = (
    Kernel(
        "rms_norm forward",
        _norm_inputs,
        lambda x, weight, g: (rms_norm.forward(x, weight, 1e-6, False),),
        lambda x, weight, g: (rms_norm.reference(x, weight, 1e-6),),
        lambda s, size: size * 2 * s.tokens * s.hidden,
    ),
    Kernel(
        "rms_norm backward",
        _norm_inputs,
        lambda x, weight, g: (rms_norm.backward(g, x, weight, 1e-6, False),),
        lambda x, weight, g: _grads(lambda a: rms_norm.reference(a, weight, 1e-6), (x,), g),
        lambda s, size: size * 3 * s.tokens * s.hidden,
    ),
    Kernel(
        "rms_norm (1 + w) forward",
        _norm_inputs,
        lambda x, weight, g: (rms_norm.forward(x, weight, 1e-6, True),),
        lambda x, weight, g: (rms_norm.reference(x, weight, 1e-6, True),),
        lambda s, size: size * 2 * s.tokens * s.hidden,
    ),
    Kernel(
        "rms_norm (1 + w) backward",
        _norm_inputs,
        lambda x, weight, g: (rms_norm.backward(g, x, weight, 1e-6, True),),
        lambda x, weight, g: _grads(lambda a: rms_norm.reference(a, weight, 1e-6, True), (x,), g),
        lambda s, size: size * 3 * s.tokens * s.hidden,
    ),
    _rope_case("rope forward", normed=False, backward=False),
    _rope_case("rope backward", normed=False, backward=True),
    _rope_case("qk_norm_rope forward", normed=True, backward=False),
    _rope_case("qk_norm_rope backward", normed=True, backward=True),
    Kernel(
        "swiglu forward",
        _gate_inputs,
        lambda gate, up, g: (swiglu.forward(gate, up),),
        lambda gate, up, g: (swiglu.reference(gate, up),),
        lambda s, size: size * 3 * s.tokens * s.inter,
    ),
    Kernel(
        "swiglu backward",
        _gate_inputs,
        lambda gate, up, g: swiglu.backward(g, gate, up),
        lambda gate, up, g: _grads(swiglu.reference, (gate, up), g),
        lambda s, size: size * 5 * s.tokens * s.inter,
    ),
    Kernel(
        "cross_entropy",
        _loss_inputs,
        lambda logits, targets: (cross_entropy.cross_entropy(logits, targets), logits),
        lambda logits, targets: (cross_entropy.reference(logits, targets), logits),
        lambda s, size: size * 2 * s.supervised * s.vocabulary,
        narrow="one target, its logit and one loss per row",
    ),
    Kernel(
        "nf4_dequantize",
        _nf4_inputs,
        lambda packed, state: (nf4.dequantize(packed, state),),
        lambda packed, state: (nf4.reference(packed, state),),
        lambda s, size: s.hidden * s.inter * size + s.hidden * s.inter // 2 + s.hidden * s.inter // 64,
        narrow="code books and scales",
    ),
    Kernel(
        "adamw",
        _adamw_inputs,
        lambda **inputs: _adamw_run(adamw.update, **inputs),
        lambda **inputs: _adamw_run(adamw.reference, **inputs),
        lambda s, size: s.trained * (8 * 4 + size),
        narrow="norm, rate and powers of the betas",
    ),
)
