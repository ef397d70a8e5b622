"""The two pictures of a run: training_loss.png and training_eval_loss.png."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Log = dict[str, float]
Points = list[tuple[float, float]]
_BLUE, _ORANGE, _GREY = "#1f77b4", "#d9730d", "#666666"


def plot_losses(log_history: Sequence[Log], folder: Path, title: str) -> list[Path]:
    """Draw what a run logged; the evaluation's picture only if there was one. Returns the files."""
    made = []
    train = [(e["step"], e["loss"]) for e in log_history if "loss" in e]
    evals = [(e["step"], e["eval_loss"]) for e in log_history if "eval_loss" in e]
    if train:
        made.append(_plot_train(train, folder / "training_loss.png", title))
    if evals:
        made.append(_plot_eval(evals, train, folder / "training_eval_loss.png", title))
    return made


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential moving average as LLaMA-Factory draws it: weight 1.8·(sigmoid(0.05·n) − 0.5)."""
    weight = 1.8 * (1 / (1 + math.exp(-0.05 * len(values))) - 0.5)
    smoothed, last = [], values[0]
    for value in values:
        last = last * weight + (1 - weight) * value
        smoothed.append(last)
    return smoothed


def _plot_train(points: Points, path: Path, title: str) -> Path:
    figure, axes = _axes(title, "training loss")
    _draw_train(axes, points)
    return _save(figure, axes, path)


def _plot_eval(points: Points, train: Points, path: Path, title: str) -> Path:
    figure, axes = _axes(title, "loss")
    if train:
        _draw_train(axes, train)
    steps, losses = zip(*points, strict=True)
    axes.plot(steps, losses, color=_ORANGE, linewidth=2, marker="o", markersize=4, label="evaluation")
    best = min(points, key=lambda p: p[1])
    ring = f"best evaluation, update {best[0]:.0f}"
    axes.scatter(*best, s=110, facecolors="none", edgecolors=_ORANGE, linewidths=2, zorder=3, label=ring)
    _value(axes, best, _ORANGE, below=False)
    if best != points[-1]:
        _value(axes, points[-1], _ORANGE, below=False)
    return _save(figure, axes, path)


def _draw_train(axes: Axes, points: Points) -> None:
    """The raw losses faintly, the smoothed ones over them, and the value that they end at."""
    steps, losses = zip(*points, strict=True)
    marker = "o" if len(points) == 1 else None
    axes.plot(steps, losses, color=_BLUE, alpha=0.4, marker=marker, label="training, each log step")
    if len(points) > 1:
        axes.plot(steps, smooth(losses), color=_BLUE, linewidth=2, label="training, smoothed")
    _value(axes, (steps[-1], smooth(losses)[-1]), _BLUE, below=True)


def _axes(title: str, label: str) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # Not pyplot: that keeps figures in a global list and may want a display.
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left", color=_GREY)
    axes.set_xlabel("update")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _value(axes: Axes, point: tuple[float, float], color: str, *, below: bool) -> None:
    """Write a point's value beside it, on a white halo so that no line runs through the figures."""
    from matplotlib.patheffects import withStroke

    text: dict[str, Any] = {"ha": "center", "va": "top" if below else "bottom", "color": color, "fontweight": "bold"}
    text["path_effects"] = [withStroke(linewidth=3, foreground="white")]
    offset = (0, -9 if below else 9)
    axes.annotate(f"{point[1]:.3f}", point, textcoords="offset points", xytext=offset, zorder=4, **text)


def _save(figure: Figure, axes: Axes, path: Path) -> Path:
    axes.margins(x=0.04, y=0.12)
    axes.legend(frameon=False)
    figure.savefig(path)
    return path
