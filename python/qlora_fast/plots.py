"""The losses of one run or of several as pictures, and the style that all pictures share.

Figures are made without pyplot, which keeps them in a global list and may want a display. Matplotlib is imported when
something is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Log = dict[str, float]
Points = list[tuple[float, float]]
BLUE, ORANGE, GREY = "#1f77b4", "#d9730d", "#666666"
# The palette of Okabe and Ito, which readers with any colour vision can distinguish.
_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933")
_LINE_POINTS = 11.0
"""Height of a label in points: labels closer than this are moved apart."""


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential moving average with LLaMA-Factory's weight, 1.8·(sigmoid(0.05·n) − 0.5)."""
    weight = 1.8 * (1 / (1 + math.exp(-0.05 * len(values))) - 0.5)
    smoothed, last = [], values[0]
    for value in values:
        last = last * weight + (1 - weight) * value
        smoothed.append(last)
    return smoothed


# One run: training_loss.png and training_eval_loss.png.


def plot_losses(log_history: Sequence[Log], folder: Path, title: str) -> list[Path]:
    """Draw what a run logged, the evaluation only if there was one.

    Returns:
        The files that were written.
    """
    curve = Curve.of("", log_history)
    made = []
    if curve.train:
        made.append(_plot_train(curve.train, folder / "training_loss.png", title))
    if curve.evals:
        made.append(_plot_eval(curve.evals, curve.train, folder / "training_eval_loss.png", title))
    return made


def _plot_train(points: Points, path: Path, title: str) -> Path:
    figure, (axes,) = new_figure((8, 4.5), [title], "update", "training loss")
    _draw_train(axes, points)
    return _save_run(figure, axes, path)


def _plot_eval(points: Points, train: Points, path: Path, title: str) -> Path:
    figure, (axes,) = new_figure((8, 4.5), [title], "update", "loss")
    if train:
        _draw_train(axes, train)
    steps, losses = zip(*points, strict=True)
    axes.plot(steps, losses, color=ORANGE, linewidth=2, marker="o", markersize=4, label="evaluation")
    best = min(points, key=lambda p: p[1])
    ring = f"best evaluation, update {best[0]:.0f}"
    axes.scatter(*best, s=110, facecolors="none", edgecolors=ORANGE, linewidths=2, zorder=3, label=ring)
    _value(axes, best, ORANGE, below=False)
    if best != points[-1]:
        _value(axes, points[-1], ORANGE, below=False)
    return _save_run(figure, axes, path)


def _draw_train(axes: Axes, points: Points) -> None:
    """The raw losses faintly, the smoothed ones over them, and the last smoothed value."""
    steps, losses = zip(*points, strict=True)
    marker = "o" if len(points) == 1 else None
    axes.plot(steps, losses, color=BLUE, alpha=0.4, marker=marker, label="training, each log step")
    if len(points) > 1:
        axes.plot(steps, smooth(losses), color=BLUE, linewidth=2, label="training, smoothed")
    _value(axes, (steps[-1], smooth(losses)[-1]), BLUE, below=True)


def _value(axes: Axes, point: tuple[float, float], color: str, *, below: bool) -> None:
    """Write a point's value beside it, on a white halo so that no line crosses the digits."""
    text: dict[str, Any] = {"ha": "center", "va": "top" if below else "bottom", "color": color, "fontweight": "bold"}
    offset = (0, -9 if below else 9)
    axes.annotate(
        f"{point[1]:.3f}", point, textcoords="offset points", xytext=offset, zorder=4, path_effects=halo(), **text
    )


def _save_run(figure: Figure, axes: Axes, path: Path) -> Path:
    axes.margins(x=0.04, y=0.12)
    axes.legend(frameon=False)
    figure.savefig(path)
    return path


# Several runs in one picture: training on the left, evaluation on the right.


@dataclass(frozen=True, slots=True)
class Curve:
    """The losses that one run logged, as (update, loss) points."""

    name: str
    train: Points
    evals: Points

    @classmethod
    def of(cls, name: str, log_history: Sequence[Log]) -> Curve:
        train = [(e["step"], e["loss"]) for e in log_history if "loss" in e]
        return cls(name, train, [(e["step"], e["eval_loss"]) for e in log_history if "eval_loss" in e])


def plot_overlay(curves: Sequence[Curve], path: Path) -> Path:
    """Draw the curves of all runs; each is labelled at its end with its name and last value."""
    titles = ["training loss, smoothed (raw behind it)"]
    if any(curve.evals for curve in curves):
        titles.append("evaluation loss")
    figure, panels = new_figure((13 if len(titles) > 1 else 8, 5), titles, "update")
    _draw_curves(panels[0], [(c.name, c.train) for c in curves], smoothed=True)
    if len(panels) > 1:
        _draw_curves(panels[1], [(c.name, c.evals) for c in curves], smoothed=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _draw_curves(axes: Axes, series: Sequence[tuple[str, Points]], *, smoothed: bool) -> None:
    ends: list[tuple[str, float, float, str]] = []
    for number, (name, points) in enumerate(series):
        if not points:
            continue
        colour = _PALETTE[number % len(_PALETTE)]
        steps, losses = (list(part) for part in zip(*points, strict=True))
        if smoothed and len(losses) > 1:
            axes.plot(steps, losses, color=colour, alpha=0.15, linewidth=1)
            losses = smooth(losses)
        marker = None if smoothed and len(losses) > 1 else "o"
        style = "-" if number < len(_PALETTE) else "--"
        axes.plot(steps, losses, style, color=colour, linewidth=1.8, marker=marker, markersize=4)
        ends.append((name, steps[-1], losses[-1], colour))
    if ends:
        _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: Sequence[tuple[str, float, float, str]]) -> None:
    """Names and last values in a column on the right, each as close to the height of its curve as there is room."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    gap = _LINE_POINTS * (high - low) / (axes.get_window_extent().height * 72 / axes.figure.dpi)
    right = max(step for _, step, _, _ in ends)
    ordered = sorted(ends, key=lambda end: end[2])
    for (name, step, value, colour), at in zip(ordered, spread([end[2] for end in ordered], gap), strict=True):
        line = {"arrowstyle": "-", "color": colour, "alpha": 0.35, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            f"{name}  {value:.3f}",
            xy=(step, value),
            xytext=(1.03, at),
            textcoords=axes.get_yaxis_transform(),
            color=colour,
            fontsize=9,
            fontweight="bold",
            va="center",
            annotation_clip=False,
            arrowprops=line,
        )
    axes.set_xlim(right=right * 1.01 if right else 1)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move ascending heights apart until neighbours are ``gap`` apart; each cluster keeps its mean height."""
    clusters: list[list[float]] = []
    for height in heights:
        clusters.append([height])
        # A cluster is centred on the mean of its members and absorbs the one below while the two overlap.
        while len(clusters) > 1 and _bottom(clusters[-1], gap) - _top(clusters[-2], gap) < gap:
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    return [_bottom(cluster, gap) + gap * i for cluster in clusters for i in range(len(cluster))]


def _bottom(cluster: Sequence[float], gap: float) -> float:
    return sum(cluster) / len(cluster) - gap * (len(cluster) - 1) / 2


def _top(cluster: Sequence[float], gap: float) -> float:
    return sum(cluster) / len(cluster) + gap * (len(cluster) - 1) / 2


# What all pictures share.


def new_figure(size: tuple[float, float], titles: Sequence[str], x: str, y: str = "") -> tuple[Figure, list[Axes]]:
    """A figure with one panel per title, in the style of all pictures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=11, loc="left", color=GREY)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def halo() -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3, foreground="white")]
