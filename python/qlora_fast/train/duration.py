"""How long a run will take, estimated from a few of its rows. Pure arithmetic, no torch.

A row costs something fixed and something a token. Both are fitted to the rows that were timed; what the fit leaves
unexplained is the width of the range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_LEAST = 0.1
"""No forecast is narrower than ±10 %: another row, another moment, another temperature."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A row that was run: its tokens, pads included, and the seconds of forward and backward."""

    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a row are ``fixed + per_token · tokens``, give or take the share ``spread``."""

    fixed: float
    per_token: float
    spread: float

    def rows(self, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds of rows of so many tokens; a row without any costs nothing."""
        return np.where(tokens > 0, self.fixed + self.per_token * tokens, 0.0)


def fit(timed: Sequence[Timed]) -> Cost:
    """The cost that explains the timed rows best; neither part is ever negative."""
    tokens = np.array([t.tokens for t in timed], np.float64)
    seconds = np.array([t.seconds for t in timed], np.float64)
    proportional = float((tokens @ seconds) / (tokens @ tokens))
    fixed, per_token = 0.0, proportional
    if len(set(tokens.tolist())) > 1:
        slope, start = np.polyfit(tokens, seconds, 1)
        if slope <= 0:
            fixed, per_token = float(seconds.mean()), 0.0
        elif start > 0:
            fixed, per_token = float(start), float(slope)
    told = fixed + per_token * tokens
    spread = float(np.sqrt(np.mean(((seconds - told) / told) ** 2)))
    return Cost(fixed, per_token, max(spread, _LEAST))


def epoch_seconds(cost: Cost, row_tokens: NDArray[np.int64], update_offsets: NDArray[np.int64], world: int) -> float:
    """Seconds of an epoch's rows: in each update the devices wait for the one with the most to do."""
    seconds = cost.rows(row_tokens)
    total = 0.0
    for first, last in pairwise(update_offsets.tolist()):
        total += max(float(seconds[first + rank : last : world].sum()) for rank in range(world))
    return total


def spell(seconds: float) -> str:
    """``42 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
