"""A weight that is quantized in pieces has the bits that bitsandbytes makes of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from qlora_fast.model.streamed import quantize
from qlora_fast.model.streamed.tensor_files import TensorFiles
from tiny_run import CPU

SHAPES = [(64, 64), (300, 128), (37, 50), (5, 3), (1, 200), (200, 1), (600, 600)]
KINDS: list[dict[str, Any]] = [
    {"quant_type": "nf4", "compress_statistics": True},
    {"quant_type": "nf4", "compress_statistics": False},
    {"quant_type": "fp4", "compress_statistics": True},
    {},
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=["nf4", "nf4, plain scales", "fp4", "int8"])
def test_the_bits_are_those_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any], shape: tuple[int, int], dtype: torch.dtype
) -> None:
    from bitsandbytes import nn

    monkeypatch.setitem(quantize._PIECE, "cpu", 1 << 12)
    stored = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    stored[0, 0] = 30.0  # an outlier
    save_file({"w": stored}, tmp_path / "model.safetensors", {"format": "pt"})
    value = stored.to(dtype)
    made: Any
    if kind:
        layer = nn.Linear4bit(shape[1], shape[0], bias=False, device="meta", **kind)
        whole: Any = nn.Params4bit(value, requires_grad=False, **kind).to(CPU)
    else:
        layer = nn.Linear8bitLt(shape[1], shape[0], bias=False, has_fp16_weights=False, device="meta")
        whole = nn.Int8Params(value, requires_grad=False).to(CPU)
    made = quantize.quantized(TensorFiles(tmp_path), "w", layer.weight, dtype, CPU)
    assert torch.equal(made.data, whole.data)
    assert type(made) is type(whole)
    assert made.data.shape == whole.data.shape
    if not kind:
        assert torch.equal(made.SCB, whole.SCB)
        return
    assert layer.quant_state is made.quant_state
    ours, theirs = (weight.quant_state.as_dict() for weight in (made, whole))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value) if isinstance(value, torch.Tensor) else ours[name] == value, name
