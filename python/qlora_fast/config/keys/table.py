"""How a setting is written down: ``name: type = key(default, effect, …)``.

Everything that is known of a key stands in that one line: the YAML reader, ``key=value``, ``config keys``, the JSON schema
and docs/configuration.md are all made from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limit:
    """What must hold of a value: in words, for a JSON schema, and as a test."""

    words: str
    schema: dict[str, Any]
    holds: Callable[[Any], bool]

    def __call__(self, value: Any) -> str | None:
        return None if self.holds(value) else f"must {self.words}, not {_shown(value)}"


def at_least(low: float) -> Limit:
    return Limit(f"be at least {low}", {"minimum": low}, lambda v: bool(v >= low))


positive = Limit("be greater than 0", {"exclusiveMinimum": 0}, lambda v: bool(v > 0))
below_one = Limit("lie in 0 … 1 (1 excluded)", {"minimum": 0, "exclusiveMaximum": 1}, lambda v: 0 <= v < 1)


count_or_share = Limit(
    "be a whole number from 1 on, or a share of all updates between 0 and 1",
    {"exclusiveMinimum": 0, "if": {"minimum": 1}, "then": {"multipleOf": 1}},
    lambda v: 0 < v < 1 or (isinstance(v, int) and v >= 1),
)

checkpoint_or_switch = Limit(
    "be true, false or the path of a checkpoint-N",
    {"pattern": r"(^|[/\\])checkpoint-\d+[/\\]?$"},
    lambda v: isinstance(v, bool) or re.fullmatch(r"checkpoint-\d+", Path(v).name) is not None,
)


def within(low: float, high: float) -> Limit:
    return Limit(f"lie in {low} … {high}", {"minimum": low, "maximum": high}, lambda v: low <= v <= high)


def one_of(*values: int) -> Limit:
    """For numbers; words are a ``Literal``."""
    words = " or ".join(map(str, values))
    return Limit(f"be {words} (or be left out)", {"enum": list(values)}, lambda v: v in values)


def each_of(*words: str) -> Limit:
    """For a list of words out of a fixed set."""
    schema = {"items": {"type": "string", "enum": list(words)}}
    return Limit(f"hold only {', '.join(words)}", schema, lambda v: set(v) <= set(words))


def unless_unset(limit: Limit) -> Limit:
    """An unset key (null) is never checked."""
    return Limit(limit.words, limit.schema, lambda v: v is None or limit.holds(v))


@dataclass(frozen=True, slots=True)
class About:
    """What a key does and where it comes from."""

    help: str
    """Its effect, in a line or two."""
    limit: Limit | None
    unit: str
    theirs: str | None
    """Its name in LLaMA-Factory; None where it is ours alone."""
    differs: str
    """How ours differs from LLaMA-Factory's key of that name; empty where it means the same."""
    there: str
    """LLaMA-Factory's default where it is another one."""
    lacks: str
    """Values that LLaMA-Factory takes and this program does not."""


def key(
    default: T,
    help: str,
    *,
    check: Limit | None = None,
    unit: str = "",
    theirs: str | None = "",
    differs: str = "",
    there: str = "",
    lacks: str = "",
) -> T:
    """A setting: its default, its effect, what must hold of its value.

    Args:
        unit: what a number counts, such as tokens or updates.
        theirs: LLaMA-Factory's name for it; the same name unless said otherwise, None for a key of ours alone.
        differs: how ours differs from LLaMA-Factory's.
        there: LLaMA-Factory's default where it is another one.
        lacks: values that LLaMA-Factory takes and this program does not.
    """
    metadata = {"about": About(help, check, unit, theirs, differs, there, lacks)}
    if isinstance(default, dict | list):
        made: Any = field(default_factory=lambda: type(default)(default), metadata=metadata)
    else:
        made = field(default=default, metadata=metadata)
    return made  # type: ignore[no-any-return]


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
