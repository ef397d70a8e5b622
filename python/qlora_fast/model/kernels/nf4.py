"""4-bit weights of bitsandbytes' NF4 format (Dettmers et al. 2023) back to 16 or 32 bits, nested scales included.

Two weights share a byte, the first in its high half; 64 weights (``blocksize``) share a scale. With double quantization the
scales are bytes themselves, 256 of which share a second scale::

    s = code₂[q_s] · s₂ + offset   (else s itself, fp32)        w = round(code[q] · s)

Each product and the sum are rounded on their own, as bitsandbytes' two launches and an addition do it: the result is equal
bit for bit. One launch reads 4.13 bits and writes 16 per weight; no buffer of scales is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qlora_fast.model.kernels.launch import Program

if TYPE_CHECKING:
    import triton.language as tl

_BLOCK = 2048
"""Bytes per instance: 16 for each of 128 threads."""


def fits(state: Any) -> bool:
    """Whether a ``QuantState`` of bitsandbytes is of this format."""
    if state.quant_type != "nf4" or state.absmax is None:
        return False
    return not state.nested or (state.absmax.dtype == torch.uint8 and state.state2.absmax.dtype == torch.float32)


def reference(packed: Tensor, state: Any) -> Tensor:
    """In plain torch: the weight in the state's shape and dtype."""
    scales = state.absmax
    if state.nested:
        second = state.state2
        outer = second.absmax.repeat_interleave(second.blocksize)[: scales.numel()]
        scales = second.code[scales.reshape(-1).int()] * outer + state.offset
    bits = packed.reshape(-1).view(torch.uint8)
    codes = torch.stack((bits >> 4, bits & 15), 1).reshape(-1)[: _numel(state)]
    each = scales.reshape(-1).repeat_interleave(state.blocksize)[: codes.numel()]
    out: Tensor = (state.code[codes.int()] * each).to(state.dtype).reshape(state.shape)
    return out


def dequantize(packed: Tensor, state: Any) -> Tensor:
    """:func:`reference` in one launch."""
    values = _numel(state)
    out = torch.empty(state.shape, dtype=state.dtype, device=packed.device)
    second = state.state2 if state.nested else state
    tensors = {
        "packed_ptr": packed.view(torch.uint8),  # a folder may store the bytes as numbers of another kind
        "code_ptr": state.code,
        "scale_ptr": state.absmax,
        "code2_ptr": second.code,
        "scale2_ptr": second.absmax,
        "offset_ptr": state.offset if state.nested else state.absmax,
        "out_ptr": out,
    }
    constants = {"NESTED": state.nested, "SHARE": state.blocksize, "SHARE2": second.blocksize, "BLOCK": _BLOCK}
    PROGRAM.launch((-(-values // (2 * _BLOCK)),), {**tensors, "n": values}, constants)
    return out


def _numel(state: Any) -> int:
    return int(torch.Size(state.shape).numel())


def _nf4_dequantize(
    packed_ptr, code_ptr, scale_ptr, code2_ptr, scale2_ptr, offset_ptr, out_ptr, n,
    NESTED: tl.constexpr, SHARE: tl.constexpr, SHARE2: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # A line per scale, so that a thread loads it once for all of its bytes.
    LINE: tl.constexpr = SHARE // 2
    LINES: tl.constexpr = BLOCK // LINE
    share = tl.program_id(0).to(tl.int64) * LINES + tl.arange(0, LINES)
    there = share * SHARE < n
    if NESTED:
        code = tl.load(scale_ptr + share, mask=there, other=0).to(tl.int32)
        outer = tl.load(scale2_ptr + share // SHARE2, mask=there, other=0.0)
        scale = tl.load(code2_ptr + code) * outer + tl.load(offset_ptr)
    else:
        scale = tl.load(scale_ptr + share, mask=there, other=0.0)
    at = share[:, None] * LINE + tl.arange(0, LINE)[None, :]
    byte = tl.load(packed_ptr + at, mask=2 * at < n, other=0).to(tl.int32)
    high = tl.load(code_ptr + (byte >> 4)) * scale[:, None]
    low = tl.load(code_ptr + (byte & 15)) * scale[:, None]
    to = share[:, None] * SHARE + tl.arange(0, SHARE)[None, :]
    tl.store(out_ptr + to, tl.interleave(high, low).to(out_ptr.dtype.element_ty), mask=to < n)


PROGRAM = Program(_nf4_dequantize, contract=False)
