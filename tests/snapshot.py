"""Text that is held by a file: a reworded message is one reviewed diff. `make snapshots` writes the files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from paths import TESTS

FOLDER = TESTS / "snapshots"
WRITE = os.environ.get("QLORA_FAST_SNAPSHOTS") == "write"

_VARIES = (
    (r"-[0-9a-f]{10}\b", "-FINGERPRINT"),
    (r"\b\d+(\.\d+)? s\b", "N s"),
    (r"\d+(\.\d+)? (samples|tok)/s", r"N \2/s"),
    (r"qlora-fast, version \S+", "qlora-fast, version VERSION"),
)


def check(name: str, text: str, places: dict[str, Path]) -> None:
    """Compare with ``snapshots/NAME.txt``; paths, times and fingerprints are replaced by their names.

    Args:
        places: folders that differ from machine to machine, by what stands for them.
    """
    for shown, place in places.items():
        text = text.replace(str(place), shown)
    for pattern, shown in _VARIES:
        text = re.sub(pattern, shown, text)
    text = "\n".join(line.rstrip() for line in text.strip("\n").split("\n")) + "\n"
    path = FOLDER / f"{name}.txt"
    if WRITE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{path} is missing: make snapshots"
    assert text == path.read_text(encoding="utf-8"), f"{path.name} differs: make snapshots, and review the diff"
