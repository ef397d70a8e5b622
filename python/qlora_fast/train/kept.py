"""What the machine decided for a run, and a resumed run takes over: another decision would round differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from qlora_fast.model.products import Way, Ways
from qlora_fast.train.identity import COMPILED, PRODUCTS, ROW_BUDGET


@dataclass(frozen=True, slots=True)
class Kept:
    """Decisions of the run that is resumed; None where it did not store one.

    Attributes:
        row_budget: tokens of a row.
        products: how a CPU multiplied with frozen weights.
        compiled: whether the decoder layers were compiled.
    """

    row_budget: int | None = None
    products: Ways | None = None
    compiled: bool | None = None

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> Kept:
        """Of a checkpoint's identity, of which nothing is certain: what has another shape counts as not stored."""
        budget, products, compiled = (identity.get(name) for name in (ROW_BUDGET, PRODUCTS, COMPILED))
        known = isinstance(products, list) and len(products) == 2 and all(way in get_args(Way) for way in products)
        return cls(
            row_budget=budget if type(budget) is int and budget > 0 else None,
            products=cast(Ways, tuple(cast(list[Way], products))) if known else None,
            compiled=compiled if isinstance(compiled, bool) else None,
        )


NOTHING_KEPT = Kept()
