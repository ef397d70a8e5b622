"""How many tokens a packed row may have where the config leaves it open: ``max_tokens_per_row: auto``. No torch at import.

Under ``packing: exact`` the samples of an optimizer step are the config's; into how many rows they are cut changes memory and
speed alone, so a machine may decide it:

::

    on a GPU   the whole step in one row on each device, if its memory allows, else the longest row that fits
    on a CPU   1,024 tokens, or fewer where memory ends: longer rows are no faster (BENCHMARKS.md has the figures)

A row is never shorter than the longest sample. A step of ``packing: dense`` is a number of rows, so its samples would follow the
machine: there ``auto`` is ``cutoff_len``. A resumed run keeps the number of its checkpoint as long as memory allows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qlora_fast.config import Config

CPU_ROW = 1024
"""Tokens of a row beyond which a CPU gained nothing; below 512 it lost a tenth and more (BENCHMARKS.md)."""
GPU_ROW = 2048
"""A GPU recomputes activations rather than run shorter rows than this: it would wait for launches."""
FIT = 0.85
"""Share of the free memory that a row may be expected to take; what is chosen is then tried."""
_STEP = 256
"""A limit set by memory is a multiple of this, so that a few free bytes more or less do not change it."""


@dataclass(frozen=True, slots=True)
class RowBudget:
    """Tokens that a packed row may have, and what decided it."""

    tokens: int
    why: str


def is_open(config: Config) -> bool:
    """Whether the machine decides."""
    return config.max_tokens_per_row == "auto" and config.packing == "exact"


def named(config: Config) -> RowBudget:
    """The budget of a config that leaves nothing open."""
    if config.max_tokens_per_row == "auto":
        return RowBudget(config.row_budget, f"cutoff_len, because of `packing: {config.packing}`")
    return RowBudget(config.row_budget, "as set")


def chosen(whole: int, longest: int, fits: int | None, *, gpu: bool) -> RowBudget:
    """What ``auto`` comes to.

    Args:
        whole: tokens of the longest row when each optimizer step is one row on each device.
        longest: tokens of the longest sample. fits: tokens of the longest row that memory holds; None if unknown.
    """
    wanted = whole if gpu else min(whole, CPU_ROW)
    why = "each optimizer step is one row" if wanted == whole else "longer rows are no faster on a CPU"
    if fits is not None and fits < wanted:
        return RowBudget(max(longest, fits), "the longest row that fits into memory")
    return RowBudget(max(longest, wanted), why if wanted >= longest else "the longest sample")


def floor(whole: int, longest: int, *, gpu: bool) -> int:
    """Below how many tokens recomputing the activations is better than shorter rows."""
    return min(whole, max(longest, GPU_ROW)) if gpu else longest


def largest(most: int, need: Callable[[int], float], free: float) -> int:
    """The most tokens, at most ``most``, whose ``need`` in bytes is within :data:`FIT` of what is free.

    Args:
        need: bytes that a row of so many tokens takes; it grows with the tokens.
    """
    room = FIT * free
    if need(most) <= room:
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if need(middle) <= room else (low, middle)
    return low // _STEP * _STEP if low >= _STEP else low
