"""Programs on the null GPU: each a process, because the GPU is preloaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nullgpu import stubs
from paths import ROOT

HERE = Path(__file__).parent
Program = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def null_gpu() -> Path:
    """The built library. Skipped, with the reason, where there is no compiler or torch has no CUDA."""
    try:
        return stubs.library()
    except stubs.UnavailableError as why:
        pytest.skip(str(why))


@pytest.fixture
def program(null_gpu: Path) -> Program:
    """Runs a program of this folder with words; gives the JSON lines that it printed."""

    def run(
        name: str, *words: object, cc: int = 90, gib: int = 80, devices: int = 1, zeros: bool = False
    ) -> list[dict[str, Any]]:
        environment = {
            **stubs.environment(cc, gib, devices=devices, zeros=zeros),
            "PYTHONPATH": str(ROOT / "python"),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, str(HERE / f"{name}.py"), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
        assert done.returncode == 0, f"{name} {words} at cc {cc}:\n{done.stderr[-4000:]}"
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    return run
