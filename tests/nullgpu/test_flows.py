"""Whole runs on every kind of GPU there is, as far as that can be proved without one: train, evaluate, checkpoint, resume,
merge and chat meet no error of a device or a dtype, no path that the GPU lacks, and say which paths they took."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

import tiny
from nullgpu.conftest import Program
from nullgpu.flow import SETTINGS
from nullgpu.stubs import CAPABILITIES

AMPERE = 80
FEW = {
    75: [("qwen3", "auto", "plain"), ("llama", "fp16", "ckpt"), ("qwen3", "nf4", "plain")],
    90: [("qwen3", "bf16", "plain"), ("llama", "nf4", "ckpt"), ("qwen3", "int8", "plain"), ("llama", "fp16", "ckpt")],
    120: [("qwen3", "auto", "ckpt")],
}
ALL = list(product(tiny.MODELS, SETTINGS, ("plain", "ckpt")))


def check(program: Program, folder: Path, cc: int, runs: list[tuple[str, str, str]]) -> None:
    found = program("flow", folder, *(word for run in runs for word in run), cc=cc, zeros=True)
    assert [(f["kind"], f["numbers"]) for f in found] == [run[:2] for run in runs]
    for run in found:
        assert run["steps"] == [4, 4], "trained to the end, and again from the checkpoint in the middle"
        attention = run["run"]["attention"]
        # Before Ampere `auto` is fp32: bf16 would be emulated.
        wide = run["numbers"] == "fp32" or (run["numbers"] in ("auto", "nf4", "int8") and cc < AMPERE)
        if wide:
            assert attention == "each sample by scaled_dot_product_attention (the kernel takes 16 bits, not float32)"
        elif cc < AMPERE:
            assert "each sample" in attention
            assert "Ampere" in attention, "it says why the kernel does not run"
        else:
            assert attention.startswith("torch.nn.attention.varlen (FlashAttention")


@pytest.mark.parametrize("cc", FEW)
def test_a_whole_run_meets_no_error(program: Program, tmp_path: Path, cc: int) -> None:
    check(program, tmp_path, cc, FEW[cc])


@pytest.mark.slow
@pytest.mark.parametrize("cc", CAPABILITIES)
def test_every_run_on_every_gpu_meets_no_error(program: Program, tmp_path: Path, cc: int) -> None:
    check(program, tmp_path, cc, ALL)
