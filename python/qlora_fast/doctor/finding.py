"""One thing that the doctor found out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "warning", "broken"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact and its judgement: *note* is fine but worth knowing, *broken* means that training cannot work."""

    name: str
    state: State
    found: str
    hint: str | None = None
