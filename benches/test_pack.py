"""Packing beside the item-by-item algorithm that other trainers run: equally many rows, in another time."""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qlora_fast import _core

ROW = 2048


def lengths(n: int) -> NDArray[np.uint32]:
    """Alpaca-like: log-normal around 75 tokens."""
    drawn = np.random.default_rng(0).lognormal(np.log(75), 0.7, n)
    return np.clip(drawn, 3, ROW).astype(np.uint32)


def best_fit_item_by_item(sizes: NDArray[np.uint32]) -> int:
    """Best-fit decreasing, one sample at a time, over a sorted list of free spaces; the number of rows."""
    free: list[int] = []
    rows = 0
    for size in sorted(sizes.tolist(), reverse=True):
        at = bisect_left(free, size)
        if at == len(free):
            rows += 1
            left = ROW - size
        else:
            left = free.pop(at) - size
        if left:
            insort(free, left)
    return rows


def test_ours_52k(benchmark: Callable[..., Any]) -> None:
    _, offsets = benchmark(_core.pack, lengths(52_000), ROW)
    assert len(offsets) - 1 == best_fit_item_by_item(lengths(52_000))


def test_item_by_item_52k(benchmark: Callable[..., Any]) -> None:
    assert benchmark(best_fit_item_by_item, lengths(52_000)) >= _core.packing_lower_bound(lengths(52_000), ROW)


def best_of(n: int, sizes: NDArray[np.uint32]) -> float:
    seconds = []
    for _ in range(n):
        started = time.perf_counter()
        _core.pack(sizes, ROW)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


@pytest.mark.slow
def test_52k_samples_take_at_most_2_ms() -> None:
    assert best_of(20, lengths(52_000)) <= 2e-3


@pytest.mark.slow
def test_10_million_samples_take_at_most_0_4_s() -> None:
    assert best_of(5, lengths(10_000_000)) <= 0.4
