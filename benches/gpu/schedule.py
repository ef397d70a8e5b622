"""The items, their order and their time. Plain Python: the process that keeps the time must not depend on what it measures."""

from __future__ import annotations

from dataclasses import dataclass

TOTAL_SECONDS = 560


@dataclass(frozen=True, slots=True)
class Item:
    """One measurement in a process of its own.

    Attributes:
        name: the module in :mod:`benches.gpu.items`.
        seconds: when it is stopped. What an item leaves over is not given to others: a later item has its own time too.
        shows: what it is there for.
    """

    name: str
    seconds: int
    shows: str


ITEMS = (
    Item("limits", 40, "device limits: copy GB/s, matmul TFLOP/s, launch rate"),
    Item("tests", 110, "tests/cuda"),
    Item("kernels", 60, "each Triton kernel against fp64 and the copy ceiling"),
    Item("profile", 60, "launches, kernel time and idle share of one micro-batch"),
    Item("ablation", 130, "tokens/s at 2k and 8k, one change after another"),
    Item("large", 100, "8B shape, bf16 and NF4: tokens/s, peak memory against the estimate"),
    Item("stock", 60, "transformers.Trainer + PEFT on padded batches"),
)
"""The most valuable first: whatever ends the whole early takes the last ones."""


def chosen(names: list[str] | None) -> tuple[Item, ...]:
    """The items to run, in their order.

    Raises:
        ValueError: an unknown name.
    """
    known = {item.name for item in ITEMS}
    if unknown := set(names or ()) - known:
        raise ValueError(f"no item {', '.join(sorted(unknown))}; there are {', '.join(i.name for i in ITEMS)}")
    return tuple(item for item in ITEMS if not names or item.name in names)
