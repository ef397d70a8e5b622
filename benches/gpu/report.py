"""What an item prints: JSON lines that the runner keeps, and nothing else on stdout."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO


class Report:
    """The lines of one item."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def machine(self, **facts: Any) -> None:
        """What the head of the table says."""
        self._line({"machine": facts})

    def row(self, wrong: bool = False, **columns: Any) -> None:
        """A line of the item's table. ``wrong``: it shows a fault, and the whole run must not pass for good."""
        self._line({"row": columns, **({"wrong": True} if wrong else {})})

    def note(self, text: str, wrong: bool = False) -> None:
        """A sentence below the item's table."""
        self._line({"note": text, **({"wrong": True} if wrong else {})})

    def _line(self, record: dict[str, Any]) -> None:
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()


def item(measure: Callable[[Report, bool], None]) -> None:
    """Run an item as a program: ``measure`` gets its report and whether shapes are tiny."""
    parser = argparse.ArgumentParser(description=measure.__doc__)
    parser.add_argument("--tiny", action="store_true")
    words = parser.parse_args()
    # Libraries print to stdout; the real one is for JSON lines only.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import torch

    if not torch.cuda.is_available():
        sys.exit("torch sees no NVIDIA GPU here")
    measure(Report(stream), words.tiny)
