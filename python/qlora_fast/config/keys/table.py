"""How a setting is declared: ``name: type = key(default, effect, affects=…)``.

The type carries the limits (``Annotated`` with msgspec's ``Meta``), the call everything else. The YAML reader, ``key=value``,
``config keys``, the JSON schema, docs/configuration.md, and every list of settings that a run, a sweep or a comparison
needs are made from these lines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta

T = TypeVar("T")

Count = Annotated[int, Meta(ge=1)]
"""A whole number from 1 on."""
Whole = Annotated[int, Meta(ge=0)]
"""A whole number from 0 on."""
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
ShareBelowOne = Annotated[float, Meta(ge=0, lt=1)]
Interval = Annotated[
    Annotated[int, Meta(ge=1)] | Annotated[float, Meta(gt=0, lt=1)],
    Meta(description="a whole number from 1 on, or a share of all optimizer steps between 0 and 1"),
]
"""Optimizer steps between two events."""
SwitchOrCheckpoint = Annotated[
    bool | Annotated[str, Meta(pattern=r"^auto$|[/\\]|^checkpoint-\d+$|^\$")],
    Meta(description="true, false, auto or the path of a checkpoint-N"),
]

Affects = Literal["data", "preparation", "source", "learning", "batch", "arithmetic", "result", "nothing"]
"""What changes when a setting changes:

- ``data``: the bytes of the prepared dataset, as an option of the core;
- ``preparation``: how it is prepared, never its bytes: an option of the core too;
- ``source``: where the data comes from; a run knows its data by the fingerprint, wherever it lies;
- ``learning``: what is learned from the data;
- ``batch``: with the others of its kind, the samples of an optimizer step;
- ``arithmetic``: the rounding of what is learned and nothing else;
- ``result``: what a run measures, reports and keeps, and how fast it is;
- ``nothing``: where things lie, and whether to start or to continue.
"""


@dataclass(frozen=True, slots=True)
class About:
    """What a key does and where it comes from."""

    help: str
    """Its effect, in a line or two."""
    affects: Affects
    compared_as: str
    """The property of a config that runs are compared by in its place; empty for the key itself."""
    path: bool
    """Whether its value names files: ``~`` and environment variables in it are expanded."""
    unit: str
    theirs: str | None
    """Its name in LLaMA-Factory; None where LLaMA-Factory has no such setting."""
    differs: str
    """How it differs from LLaMA-Factory's key of that name; empty where it means the same."""
    there: str
    """LLaMA-Factory's default where it is another one."""
    lacks: str
    """Values that LLaMA-Factory takes and this program does not."""


def key(
    default: T,
    help: str,
    *,
    affects: Affects,
    compared_as: str = "",
    path: bool = False,
    unit: str = "",
    theirs: str | None = "",
    differs: str = "",
    there: str = "",
    lacks: str = "",
) -> T:
    """A setting: its default, its effect, what it affects.

    Args:
        compared_as: the property of a config that runs are compared by in its place.
        path: whether its value names files.
        unit: what a number counts, such as tokens or steps.
        theirs: LLaMA-Factory's name for it; the same name unless given, None for a key that it does not have.
        differs: how it differs from LLaMA-Factory's.
        there: LLaMA-Factory's default where it is another one.
        lacks: values that LLaMA-Factory takes and this program does not.
    """
    metadata = {"about": About(help, affects, compared_as, path, unit, theirs, differs, there, lacks)}
    if isinstance(default, dict | list):
        made: Any = field(default_factory=lambda: type(default)(default), metadata=metadata)
    else:
        made = field(default=default, metadata=metadata)
    return made  # type: ignore[no-any-return]
