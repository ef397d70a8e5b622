"""Triton's interpreter on CPU tensors, rounding as hardware does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch


def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run Triton programs by the interpreter until the test ends.

    The interpreter cuts bf16 off instead of rounding to the nearest: torch's conversion takes its place.
    """
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    import triton.language as tl
    from triton.runtime import interpreter as triton_interpreter

    plain = triton_interpreter._convert_float

    def convert(data: Any, source: Any, target: Any, mode: Any) -> Any:
        if source == tl.float32 and target == tl.bfloat16:
            rounded = torch.from_numpy(np.array(data, dtype=np.float32)).bfloat16()
            return rounded.view(torch.int16).numpy().view(np.uint16)
        return plain(data, source, target, mode)

    monkeypatch.setattr(triton_interpreter, "_convert_float", convert)
