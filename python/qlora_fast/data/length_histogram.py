"""length_histogram.png: how long the samples are, and what a cutoff truncates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qlora_fast.plots import BLUE, GREY, ORANGE, halo, new_figure

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_BARS = 60
_LABEL_WIDTH, _LABEL_HEIGHT = 0.17, 0.1
"""Room of a label of two lines, as shares of the axes."""


def plot_lengths(
    lengths: NDArray[np.int64], samples: NDArray[np.int64], path: Path, *, cutoff: int, suggested: int, title: str
) -> Path:
    """Draw how long the samples are before truncation, and where the cutoffs lie.

    Args:
        lengths: ascending lengths in tokens, (K,).
        samples: how many samples have each length, (K,).
        path: the picture.
        cutoff: ``cutoff_len`` of the preparation.
        suggested: the cutoff that the report suggests.
        title: what was prepared; the totals are appended.
    """
    histogram(lengths, samples, cutoff=cutoff, suggested=suggested, title=title).savefig(path)
    return path


def histogram(
    lengths: NDArray[np.int64], samples: NDArray[np.int64], *, cutoff: int, suggested: int, title: str
) -> Figure:
    """The picture of :func:`plot_lengths`."""
    import numpy as np

    figure, (axes,) = new_figure((8, 4.5), [""], "tokens of a sample, before truncation", "samples")
    edges = _edges(int(lengths.min()), max(int(lengths.max()), suggested))
    counts, _ = np.histogram(lengths, edges, weights=samples)
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=BLUE, linewidth=0)
    # A logarithmic axis of less than two octaves has one tick or none.
    if edges[-1] >= 4 * edges[0]:
        axes.set_xscale("log", base=2)
    axes.set_xlim(edges[0], edges[-1])
    if cutoff < edges[-1]:
        axes.axvspan(cutoff, edges[-1], color=ORANGE, alpha=0.12, linewidth=0, label=f"beyond cutoff_len {cutoff:,}")
        figure.legend(frameon=False, loc="outside upper right")  # inside, it could cover bars
    total, tokens = int(samples.sum()), int((lengths * samples).sum())
    below = np.cumsum(samples)
    p50, p95 = (int(lengths[np.searchsorted(below, np.ceil(q * total))]) for q in (0.50, 0.95))
    lines = _mark(
        axes,
        [
            (p50, f"half of the samples\nup to {p50:,}", GREY, True),
            (p95, f"95 %\nup to {p95:,}", GREY, True),
            (suggested, f"suggested\ncutoff {suggested:,}", ORANGE, False),
        ],
    )
    axes.set_ylim(0, counts.max() * (1.25 + 0.15 * (lines - 1)))
    axes.set_title(f"{title}: {total:,} samples, {tokens:,} tokens", fontsize=11, loc="left", color=GREY)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_axisbelow(True)
    return figure


def _edges(shortest: int, longest: int) -> NDArray[np.int64]:
    """Edges of the bars in whole tokens, each bar wider by about the same factor."""
    import numpy as np

    spaced = np.geomspace(max(shortest, 1), longest + 1, _BARS + 1)
    return np.unique(np.append(np.floor(spaced), longest + 1).astype(np.int64))


def _mark(axes: Axes, markers: Sequence[tuple[int, str, str, bool]]) -> int:
    """Vertical lines with labels, none of which covers another or the left edge.

    Args:
        axes: with their final scale and limits of x.
        markers: (x, label, colour, whether the label stands to the left of the line).

    Returns:
        The number of lines of labels at the top of the picture.
    """
    taken: list[list[tuple[float, float]]] = []
    for at, text, colour, left in markers:
        x = axes.transAxes.inverted().transform(axes.transData.transform((at, 0)))[0]
        left = left and x >= _LABEL_WIDTH
        span = (x - _LABEL_WIDTH, x) if left else (x, x + _LABEL_WIDTH)
        free = (i for i, line in enumerate(taken) if all(span[1] <= a or b <= span[0] for a, b in line))
        level = next(free, len(taken))
        if level == len(taken):
            taken.append([])
        taken[level].append(span)
        axes.axvline(at, color=colour, linewidth=1.2, linestyle="--")
        axes.annotate(
            text,
            (at, 0.97 - _LABEL_HEIGHT * level),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            xytext=(-4 if left else 4, 0),
            ha="right" if left else "left",
            va="top",
            fontsize=9,
            color=colour,
            path_effects=halo(),
        )
    return len(taken)
