"""Which fast paths are active, and why not: each is tried on a few numbers, not guessed from versions."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from qlora_fast.doctor.finding import Finding, State
from qlora_fast.errors import first_line
from qlora_fast.hub import resolve
from qlora_fast.hub.cache import cache_dir

if TYPE_CHECKING:
    import torch

_AMPERE = 8
_HEAD_DIM = 64


def numbers() -> Iterable[Finding]:
    """bf16, fp16 or fp32."""
    import torch

    from qlora_fast.model.load import pick_device, pick_dtype

    device = pick_device()
    chosen = str(pick_dtype("auto", device)).removeprefix("torch.")
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        if major < _AMPERE:
            hint = (
                "fp16: true is the fast choice on it; auto takes fp32"
                if chosen == "float32"
                else "fp16: true is faster"
            )
            yield Finding("numbers", "note", f"dtype: auto is {chosen}; this GPU has no fast bf16", hint)
        else:
            yield Finding("numbers", "ok", f"dtype: auto is {chosen}")
        return
    yield Finding("numbers", "ok", f"dtype: auto is {chosen} on this CPU; bf16: true halves the memory of the base")


def attention() -> Iterable[Finding]:
    """The packed attention, against the plain one, on a few samples."""
    import torch

    from qlora_fast.model.load import pick_device
    from qlora_fast.model.varlen import path_for

    device = pick_device()
    if device.type != "cuda":
        error = _attention_error(device, torch.float32)
        state: State = "ok" if error < 1e-5 else "broken"
        yield Finding(
            "attention", state, f"one causal sdpa a sample, no mask (CPU); differs from the plain one by {error:.0e}"
        )
        return
    dtype = torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= _AMPERE else torch.float16
    path = path_for(device, dtype, _HEAD_DIM)
    error = _attention_error(device, dtype)
    found = f"packed rows: {path}; differs from the plain attention by {error:.0e}"
    if not error < 3e-2:
        yield Finding("attention", "broken", found, "set packing: bucketed, or update torch and the driver")
    elif path.kernel is None:
        yield Finding("attention", "note", found, "as exact, and slower where samples are many and short")
    else:
        yield Finding("attention", "ok", found)


def _attention_error(device: torch.device, dtype: torch.dtype) -> float:
    """Largest difference between a packed row of two samples and the samples alone."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    from qlora_fast.model.attention import Borders, packed_attention
    from qlora_fast.model.varlen import without_cudnn

    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, 48, _HEAD_DIM) for heads in (4, 2, 2)]
    query, key, value = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    borders = (0, 16, 48)
    on_device = torch.tensor(borders, dtype=torch.int32, device=device)
    packed, _ = packed_attention(
        torch.nn.Identity(), query, key, value, None, cu_seq_lens_q=on_device, max_length_q=32, borders=Borders(borders)
    )
    with without_cudnn():
        alone = [
            sdpa(query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], is_causal=True, enable_gqa=True)
            for a, b in pairwise(borders)
        ]
    return float((packed - torch.cat(alone, dim=2).transpose(1, 2)).abs().max())


def kernels() -> Iterable[Finding]:
    """Our Triton kernels: one of them launched, and compared with its formula in plain torch."""
    import torch

    from qlora_fast.model.kernels import rms_norm
    from qlora_fast.model.load import pick_device
    from qlora_fast.model.patch import unusable

    device = pick_device()
    reason = unusable(device)
    if device.type == "cpu":
        yield Finding("kernels", "ok", "kernels: auto fuses each LoRA layer; the rest is transformers' own code (CPU)")
    elif reason is not None:
        hint = "training runs without them, slower; Triton needs a C compiler and Python's headers"
        yield Finding("kernels", "note", f"no Triton kernel runs: {reason}", hint)
    else:
        x = torch.linspace(-2, 2, 4 * 256, device=device).reshape(4, 256)
        theirs = rms_norm.reference(x, x[0], 1e-6)
        error = float((rms_norm.forward(x, x[0], 1e-6, False) - theirs).abs().max())
        sound = error < 1e-4
        found = f"Triton kernels run; one differs from its formula by {error:.0e}"
        yield Finding("kernels", "ok" if sound else "broken", found, None if sound else "set kernels: off")


def products() -> Iterable[Finding]:
    """By which library a CPU multiplies with frozen weights, measured on a layer of a small model."""
    import torch

    from qlora_fast.model.load import pick_device
    from qlora_fast.model.products import choose

    if (device := pick_device()).type == "cpu":
        found = choose([(1536, 576)], torch.float32, device, rounding=True)
        yield Finding("products", "ok", f"with frozen weights by {found}; dtype: fp32 rounds nothing to bf16")


def compiling() -> Iterable[Finding]:
    """Whether torch.compile finds what it needs here."""
    from qlora_fast.model.compiled import missing
    from qlora_fast.model.load import pick_device

    device = pick_device()
    reason = missing(device)
    if reason is not None:
        hint = "only torch_compile needs it: install g++ and Python's headers; training runs without"
        yield Finding("torch_compile", "note", f"layers cannot be compiled: {reason}", hint)
    elif device.type == "cpu":
        yield Finding(
            "torch_compile", "ok", "layers can be compiled; auto does not on a CPU, where they are not faster"
        )
    else:
        yield Finding("torch_compile", "ok", "layers can be compiled; auto does where our kernels do not compute them")


def quantization() -> Iterable[Finding]:
    """NF4 with double quantization, there and back, on every kind of device there is."""
    import torch

    from qlora_fast.model.load import quiet_libraries

    quiet_libraries()
    try:
        from bitsandbytes import functional
    except Exception as failure:
        reason = first_line(failure)
        yield Finding("4 bits", "warning", f"bitsandbytes does not load: {reason}", "pip install 'bitsandbytes>=0.50'")
        return
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        weight = torch.linspace(-1, 1, 64 * 64, device=device).reshape(64, 64)
        try:
            packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
            error = float((functional.dequantize_4bit(packed, state) - weight).abs().max())
        except Exception as failure:
            reason = first_line(failure)
            hint = "update bitsandbytes, or its CUDA libraries: python -m bitsandbytes"
            yield Finding(f"4 bits ({device})", "warning", f"quantization_bit: 4 will not work: {reason}", hint)
            continue
        sound = error < 0.2
        speed = "" if device == "cuda" else "; slow, for tests and small models"
        found = (
            f"bitsandbytes NF4 with double quantization{speed}" if sound else f"values come back wrong by {error:.2f}"
        )
        yield Finding(
            f"4 bits ({device})", "ok" if sound else "broken", found, None if sound else "update bitsandbytes"
        )


def tokenizer() -> Iterable[Finding]:
    """The engine that the embedded model's tokenizer gets."""
    from qlora_fast import _core
    from qlora_fast.errors import QloraFastError

    try:
        folder = resolve.tokenizer_folder(resolve.EMBEDDED)
        encoder = _core.ChatEncoder(str(folder / "tokenizer.json"), "chatml", cache=cache_dir())
    except QloraFastError as error:
        yield Finding("tokenizer", "note", f"not tried, without the embedded model: {error.message}", error.hint)
        return
    found = f"{encoder.engine} for the embedded model's tokenizer; `qlora-fast prep` names the one of yours"
    yield Finding("tokenizer", "ok" if encoder.engine != "tokenizers" else "note", found)


def threads() -> Iterable[Finding]:
    """A thread count from the environment that leaves cores idle, and how threads wait for each other."""
    import torch

    from qlora_fast.model import openmp

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    used = torch.get_num_threads()
    found = f"torch computes with {used} of {cores} core{'s' * (cores != 1)}; at barriers: {openmp.waiting()}"
    if not torch.cuda.is_available() and used < cores // 2:
        named = os.environ.get("OMP_NUM_THREADS")
        hint = f"OMP_NUM_THREADS={named} is set: unset it for training on the CPU" if named else None
        yield Finding("threads", "warning", found, hint)
    else:
        yield Finding("threads", "ok", found)
