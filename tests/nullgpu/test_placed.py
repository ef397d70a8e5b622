"""A model that one GPU does not hold is asked and evaluated: no tensor is on another device than what it meets."""

from __future__ import annotations

from pathlib import Path

import pytest

from nullgpu.conftest import Program

SPREAD = {"place": "devices", "base": [0, 1], "adapter": [0, 1]}


@pytest.mark.slow
def test_a_chat_is_spread_over_two_gpus(program: Program, tmp_path: Path) -> None:
    # Before 9.0 torch does not choose cuDNN, which the null GPU has not.
    for run in program("placed", tmp_path, 16, 4, 8, cc=89, gib=8, devices=2, zeros=True):
        assert run["loaded"] == [SPREAD, SPREAD], "chat and generate"
        assert run["answers"] == [3] * 5
        assert run["eval_samples"] == 4


@pytest.mark.slow
def test_a_chat_that_one_gpu_does_not_hold_comes_from_main_memory(program: Program, tmp_path: Path) -> None:
    (run,) = program("placed", tmp_path, 4, cc=89, gib=8, zeros=True)
    assert run["loaded"] == [{"place": "main memory", "base": [0], "adapter": [0]}] * 2
    assert run["answers"] == [3] * 5
