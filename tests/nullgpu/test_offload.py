"""A base in main memory takes of the GPU what was estimated, whatever its depth."""

from __future__ import annotations

import pytest

from nullgpu.conftest import Program

CUBLAS = 32 << 20
"""Workspace that torch gives cuBLAS on compute capability 9.0; the estimate counts it with CUDA's context."""


def test_the_memory_of_an_offloaded_run_is_as_estimated(program: Program) -> None:
    (few,), (many,) = program("offload", 4, 256), program("offload", 12, 256)
    for found in (few, many):
        found["peak"] -= CUBLAS
        assert found["host"] == pytest.approx(found["base"], rel=0.01)
        assert found["peak"] == pytest.approx(found["estimated"], rel=0.25)
        assert found["loading"] < 2.2 * found["largest"], "loading takes no more than the largest part, twice"
    assert many["peak"] < 0.6 * many["complete"]
    grown, base = many["peak"] - few["peak"], many["base"] - few["base"]
    assert grown < 0.3 * base, "adapters, optimizer and checkpoints grow with the depth, the base does not"
