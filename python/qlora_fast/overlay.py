"""The loss curves of several runs in one picture: training on the left, evaluation on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qlora_fast.plots import Log, Points, smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito: told apart by everybody, the colour-blind too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933")
_GREY = "#666666"
_LINE_POINTS = 11.0
"""Height of a label, in points: labels nearer than this are moved apart."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What one run logged: (update, loss) points."""

    name: str
    train: Points
    evals: Points

    @classmethod
    def of(cls, name: str, log_history: Sequence[Log]) -> Curve:
        train = [(e["step"], e["loss"]) for e in log_history if "loss" in e]
        return cls(name, train, [(e["step"], e["eval_loss"]) for e in log_history if "eval_loss" in e])


def plot_overlay(curves: Sequence[Curve], path: Path) -> Path:
    """Draw the curves of all runs. Each is labelled where it ends with its name and its last value."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with_evals = any(curve.evals for curve in curves)
    figure = Figure(figsize=(13 if with_evals else 8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if with_evals else 1, squeeze=False)[0]
    titles = ("training loss, smoothed (raw behind it)", "evaluation loss")
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(title, fontsize=11, loc="left", color=_GREY)
        axes.set_xlabel("update")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    _draw(panels[0], [(c.name, c.train) for c in curves], smoothed=True)
    if with_evals:
        _draw(panels[1], [(c.name, c.evals) for c in curves], smoothed=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _draw(axes: Axes, series: Sequence[tuple[str, Points]], *, smoothed: bool) -> None:
    ends: list[tuple[str, float, float, str]] = []
    for number, (name, points) in enumerate(series):
        if not points:
            continue
        colour = _COLOURS[number % len(_COLOURS)]
        steps, losses = (list(part) for part in zip(*points, strict=True))
        if smoothed and len(losses) > 1:
            axes.plot(steps, losses, color=colour, alpha=0.15, linewidth=1)
            losses = smooth(losses)
        marker = None if smoothed and len(losses) > 1 else "o"
        style = "-" if number < len(_COLOURS) else "--"
        axes.plot(steps, losses, style, color=colour, linewidth=1.8, marker=marker, markersize=4)
        ends.append((name, steps[-1], losses[-1], colour))
    if ends:
        _label(axes, ends)


def _label(axes: Axes, ends: Sequence[tuple[str, float, float, str]]) -> None:
    """Names and last values in a column on the right, each at the height of its curve or as near as there is room."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    gap = _LINE_POINTS * (high - low) / (axes.get_window_extent().height * 72 / axes.figure.dpi)
    right = max(step for _, step, _, _ in ends)
    ordered = sorted(ends, key=lambda end: end[2])
    for (name, step, value, colour), at in zip(ordered, spread([end[2] for end in ordered], gap), strict=True):
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
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "alpha": 0.35,
                "linewidth": 0.8,
                "shrinkA": 0,
                "shrinkB": 2,
            },
        )
    axes.set_xlim(right=right * 1.01 if right else 1)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move ascending heights apart until neighbours are ``gap`` away, keeping each cluster where it was on average."""
    clusters: list[list[float]] = []
    for height in heights:
        clusters.append([height])
        # A cluster is its members' wishes; it stands at their mean and grows while it touches the one below.
        while len(clusters) > 1 and _bottom(clusters[-1], gap) - _top(clusters[-2], gap) < gap:
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    return [_bottom(cluster, gap) + gap * i for cluster in clusters for i in range(len(cluster))]


def _bottom(cluster: Sequence[float], gap: float) -> float:
    return sum(cluster) / len(cluster) - gap * (len(cluster) - 1) / 2


def _top(cluster: Sequence[float], gap: float) -> float:
    return sum(cluster) / len(cluster) + gap * (len(cluster) - 1) / 2
