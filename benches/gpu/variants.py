"""The changes that the ablation adds one after another. What the package does not have (yet) is named, never imitated."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from benches.gpu.product import SWITCHES


@dataclass(frozen=True, slots=True)
class Variant:
    """One more thing switched on, on top of the variants before it.

    Attributes:
        switch: the name of a switch in :data:`benches.gpu.product.SWITCHES`, or None for what is always there.
    """

    name: str
    switch: str | None = None

    def absent(self) -> str | None:
        """Why it cannot be measured, or None."""
        if self.switch is None or self.switch in SWITCHES:
            return None
        return f"this version has no `{self.switch}`"


LADDER = (
    Variant("as today"),
    Variant("+ operations", "kernels"),
    Variant("+ groups", "groups"),
    Variant("+ graphs", "graphs"),
    Variant("+ compile", "compile"),
)


def missing(package: str) -> str | None:
    """A sentence for a package that an item could use and that is not here."""
    return None if importlib.util.find_spec(package) else f"{package} is not installed: not measured"
