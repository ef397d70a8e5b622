"""Figures in what commands print."""

from __future__ import annotations

import math


def figure(value: float | None, digits: int) -> str:
    """A number with so many digits after the point; ``not finite`` for NaN, infinity and what a file has null for."""
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
