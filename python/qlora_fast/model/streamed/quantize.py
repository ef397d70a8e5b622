"""A weight quantized while it is read, a piece at a time, to the bits that bitsandbytes makes of the whole.

bitsandbytes takes a matrix as a whole, and on a CPU six times its bytes meanwhile. Its scales are of 64 values (4 bits) or of
a row (8 bits), so that pieces can be quantized alone; only the scales' own quantization needs all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from qlora_fast.model.streamed.tensor_files import TensorFiles

_PIECE = {"cpu": 1 << 17, "cuda": 1 << 22}
"""Values of a piece: a multiple of every block size. On a CPU its copies take 28 bytes per value, on a GPU none that count."""
_SCALES = 256
"""Scales that share one of their own (bitsandbytes' ``quantize_4bit``)."""


def quantized(files: TensorFiles, name: str, empty: Any, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """The weight of a ``Linear4bit`` or ``Linear8bitLt``.

    Args:
        empty: its parameter without memory, which says how it is to be quantized. dtype: that it is cast to before.

    Raises:
        ArtifactError: it has another shape in the files.
    """
    make = _four_bits if hasattr(empty, "quant_type") else _eight_bits
    return make(files, name, empty, dtype, device)


def _four_bits(files: TensorFiles, name: str, empty: Any, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """NF4 or FP4 in blocks (Dettmers et al. 2023), their scales in 32 or, nested, in 8 bits."""
    from bitsandbytes import functional
    from bitsandbytes.nn import Params4bit

    size, block = empty.numel(), empty.blocksize
    packed = torch.empty((-(-size // 2), 1), dtype=torch.uint8, device=device)
    scales = torch.empty(-(-size // block), dtype=torch.float32, device=device)
    code = functional.get_4bit_type(empty.quant_type, device=device)
    together = _PIECE[device.type]
    for number, piece in enumerate(files.pieces(name, empty.shape, together)):
        part, state = functional.quantize_4bit(
            piece.to(dtype).to(device), blocksize=block, compress_statistics=False, quant_type=empty.quant_type
        )
        _put(packed, number * together // 2, part)
        _put(scales, number * together // block, state.absmax)
    kept: dict[str, Any] = {"absmax": scales}
    if empty.compress_statistics:
        offset = scales.mean()
        absmax, state2 = functional.quantize_blockwise(scales - offset, blocksize=_SCALES)
        kept = {"absmax": absmax, "offset": offset, "state2": state2}
    state = functional.QuantState(
        shape=empty.shape, dtype=dtype, blocksize=block, code=code, quant_type=empty.quant_type, **kept
    )
    how = {**vars(empty), "quant_state": state, "bnb_quantized": True}
    empty.module.quant_state = state
    made: nn.Parameter = Params4bit(packed, requires_grad=False, **how)
    return made


def _eight_bits(files: TensorFiles, name: str, empty: Any, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """The 8 bits of LLM.int8() (Dettmers et al. 2022): a scale for each row."""
    from bitsandbytes import functional
    from bitsandbytes.nn import Int8Params

    rows, columns = empty.shape
    together = max(1, _PIECE[device.type] // columns)
    values = torch.empty((rows, columns), dtype=torch.int8, device=device)
    scales = torch.empty(rows, dtype=torch.float32, device=device)
    for number, piece in enumerate(files.pieces(name, empty.shape, together * columns)):
        part, scale, _ = functional.int8_vectorwise_quant(piece.to(dtype).to(device, torch.float16).view(-1, columns))
        _put(values, number * together, part)
        _put(scales, number * together, scale)
    made: nn.Parameter = Int8Params(
        values, requires_grad=False, has_fp16_weights=empty.has_fp16_weights, CB=values, SCB=scales
    )
    return made


def _put(whole: torch.Tensor, start: int, part: torch.Tensor) -> None:
    whole[start : start + len(part)] = part
