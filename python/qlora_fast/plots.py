"""The two pictures of a run: training_loss.png and training_eval_loss.png."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

Log = dict[str, float]
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


def _plot_train(points: list[tuple[float, float]], path: Path, title: str) -> Path:
    figure, axes = _axes(title, "training loss")
    steps, losses = zip(*points, strict=True)
    axes.plot(steps, losses, color=_BLUE, alpha=0.4, label="each log step")
    axes.plot(steps, smooth(losses), color=_BLUE, linewidth=2, label="smoothed")
    _mark(axes, steps[-1], smooth(losses)[-1], _BLUE)
    return _save(figure, axes, path)


def _plot_eval(
    points: list[tuple[float, float]], train: list[tuple[float, float]], path: Path, title: str
) -> Path:
    figure, axes = _axes(title, "loss")
    steps, losses = zip(*points, strict=True)
    if train:
        axes.plot(*zip(*train, strict=True), color=_BLUE, alpha=0.35, label="training")
    axes.plot(steps, losses, color=_ORANGE, linewidth=2, marker="o", markersize=4, label="evaluation")
    best = min(points, key=lambda p: p[1])
    axes.scatter(*best, s=110, facecolors="none", edgecolors=_ORANGE, linewidths=2, zorder=3, label="best evaluation")
    _mark(axes, *best, _ORANGE)
    return _save(figure, axes, path)


def _axes(title: str, label: str):  # type: ignore[no-untyped-def]
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left", color=_GREY)
    axes.set_xlabel("update")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _mark(axes, x: float, y: float, color: str) -> None:  # type: ignore[no-untyped-def]
    axes.annotate(
        f"{y:.3f}", (x, y), textcoords="offset points", xytext=(0, 10), ha="center", color=color, fontweight="bold"
    )


def _save(figure, axes, path: Path) -> Path:  # type: ignore[no-untyped-def]
    axes.margins(x=0.04, y=0.12)
    axes.legend(frameon=False)
    figure.savefig(path)
    return path
