"""length_histogram.png: how long the samples are before truncation, and where cutoffs fall."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qlora_fast.stats import histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_BLUE, _ORANGE, _GREY = "#1f77b4", "#d9730d", "#666666"
_BARS = 60


def draw(report: dict[str, Any], path: Path) -> Path:
    """Draw the report's ``full_lengths``; the picture's path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    lengths, samples = (np.array(column, dtype=np.int64) for column in histogram(report["full_lengths"]))
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    cutoff, suggested = int(report["cutoff_len"]), int(report["suggested_cutoff"])
    edges = _edges(int(lengths.min()), max(int(lengths.max()), suggested))
    counts, _ = np.histogram(lengths, edges, weights=samples)
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=_BLUE, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, counts.max() * 1.25)
    if cutoff < edges[-1]:
        axes.axvspan(cutoff, edges[-1], color=_ORANGE, alpha=0.12, linewidth=0, label=f"behind cutoff_len {cutoff:,}")
    total = int(samples.sum())
    below = np.cumsum(samples)
    p50, p95 = (int(lengths[np.searchsorted(below, np.ceil(q * total))]) for q in (0.50, 0.95))
    _line(axes, p50, f"half of the samples\nup to {p50:,}", _GREY, left=True)
    _line(axes, p95, f"95 %\nup to {p95:,}", _GREY, left=True)
    _line(axes, suggested, f"suggested\ncutoff {suggested:,}", _ORANGE, left=False)
    names = ", ".join(Path(source["path"]).name for source in report["sources"][:3])
    more = ", …" if len(report["sources"]) > 3 else ""
    tokens = int((lengths * samples).sum())
    axes.set_title(f"{names}{more}: {total:,} samples, {tokens:,} tokens", fontsize=11, loc="left", color=_GREY)
    axes.set_xlabel("tokens of a sample, before truncation")
    axes.set_ylabel("samples")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if cutoff < edges[-1]:
        figure.legend(frameon=False, loc="outside upper right")  # inside it may lie on bars
    figure.savefig(path)
    return path


def _edges(shortest: int, longest: int) -> NDArray[np.int64]:
    """Borders of the bars: each about the same factor wider, and whole numbers, so that no bar is empty by rounding."""
    spread = np.geomspace(max(shortest, 1), longest + 1, _BARS + 1)
    return np.unique(np.append(np.floor(spread), longest + 1).astype(np.int64))


def _line(axes: Axes, at: int, text: str, color: str, *, left: bool) -> None:
    from matplotlib.patheffects import withStroke

    axes.axvline(at, color=color, linewidth=1.2, linestyle="--")
    axes.annotate(
        text,
        (at, 0.97),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        xytext=(-4 if left else 4, 0),
        ha="right" if left else "left",
        va="top",
        fontsize=9,
        color=color,
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )
