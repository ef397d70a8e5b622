"""The pictures exist, have something on them, and show what was logged."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from qlora_fast.plots import plot_losses, smooth

HISTORY = [{"step": float(s), "loss": 2 + 1 / s} for s in range(1, 40)]
EVALS = [{"step": float(s), "eval_loss": 2.5 + (s - 20) ** 2 / 400} for s in range(10, 40, 10)]


def colors(path: Path) -> set[tuple[int, ...]]:
    pixels = (imread(path)[..., :3] * 255).round().astype(int).reshape(-1, 3)
    return {tuple(c) for c in np.unique(pixels, axis=0).tolist()}


def test_training_alone_gives_one_picture(tmp_path: Path) -> None:
    assert [p.name for p in plot_losses(HISTORY, tmp_path, "title")] == ["training_loss.png"]
    assert imread(tmp_path / "training_loss.png").shape[:2] == (540, 960)
    assert (0x1F, 0x77, 0xB4) in colors(tmp_path / "training_loss.png")


def test_evaluations_give_a_second_one(tmp_path: Path) -> None:
    made = plot_losses(HISTORY + EVALS, tmp_path, "title")
    assert [p.name for p in made] == ["training_loss.png", "training_eval_loss.png"]
    assert {(0x1F, 0x77, 0xB4), (0xD9, 0x73, 0x0D)} <= colors(made[1])
    assert (0xD9, 0x73, 0x0D) not in colors(made[0])


@pytest.mark.parametrize("history", [HISTORY[:1], HISTORY[:2], EVALS[:1]], ids=["one", "two", "only evaluation"])
def test_short_runs_are_drawn_too(tmp_path: Path, history: list[dict[str, float]]) -> None:
    assert plot_losses(history, tmp_path, "title")


def test_nothing_logged_draws_nothing(tmp_path: Path) -> None:
    assert plot_losses([], tmp_path, "title") == []


def test_smoothing_is_llama_factorys() -> None:
    assert smooth([3.0, 1.0]) == [3.0, pytest.approx(1 + 2 * 1.8 * (1 / (1 + math.exp(-0.1)) - 0.5))]
    assert smooth([2.0] * 5) == pytest.approx([2.0] * 5)


def test_drawing_needs_no_display_and_leaves_pyplot_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from qlora_fast.plots import plot_losses; "
        f"plot_losses([{{'step': 1, 'loss': 2.0}}], Path({str(tmp_path)!r}), 't'); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})
