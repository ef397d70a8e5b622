"""How a command line's words are sorted: files, then ``key=value`` settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


def sort_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files and settings, apart. A file whose name looks like a setting is still a file if it is there."""
    files: list[str] = []
    settings: list[str] = []
    for word in words:
        (settings if _SETTING.match(word) and not Path(word).exists() else files).append(word)
    return files, settings
