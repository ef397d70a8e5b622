"""The histogram of lengths: labels can be read, whatever the lengths are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from qlora_fast.data.length_histogram import histogram

LENGTHS = {
    "all equal": [48] * 39,
    "most equal": [45] * 5 + [46] * 3 + [48] * 30,
    "median at the left": [5] * 60 + [9_000] * 40,
    "percentiles side by side": [*range(500, 560), 30, 4_000],
    "one": [1],
    "far apart": [1, 100_000],
}


@pytest.mark.parametrize("name", LENGTHS)
def test_no_label_covers_another_or_the_edge(name: str) -> None:
    lengths, samples = np.unique(np.array(LENGTHS[name], dtype=np.int64), return_counts=True)
    p95 = int(np.sort(LENGTHS[name])[int(np.ceil(0.95 * len(LENGTHS[name]))) - 1])
    figure = histogram(lengths, samples, cutoff=2048, suggested=-(-p95 // 64) * 64, title="data.json")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    labels = [text.get_window_extent() for text in axes.texts]
    assert len(labels) == 3
    assert not [1 for one, other in combinations(labels, 2) if one.overlaps(other)]
    assert all(label.x0 >= axes.bbox.x0 and label.x1 <= figure.bbox.x1 for label in labels)
    tops = [bar.get_window_extent() for bar in axes.containers[0]]
    assert not [1 for label in labels for bar in tops if label.overlaps(bar)]
    assert len([tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]) >= 2
