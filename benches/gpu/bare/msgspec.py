"""Stands in for msgspec where it is not installed: last on the path of the items, so that a real one is taken if there is one.

The package describes its settings with ``Meta`` and checks their values with ``convert``. The benchmarks make their settings
themselves, so nothing need be checked; whatever else is asked for is an error.
"""

from __future__ import annotations

from typing import Any


class Meta:
    """A type's limits and its description, only kept."""

    def __init__(self, **limits: Any) -> None:
        self.description: str | None = None
        self.__dict__.update(limits)

    def __getattr__(self, name: str) -> None:
        return None


class ValidationError(Exception):
    """Never raised here."""


def convert(value: Any, kind: Any) -> Any:
    """The value as it is."""
    return value
