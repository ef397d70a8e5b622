"""What a file of the corpus is, and the rows that most of them are made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Make = Callable[[Path], "list[str]"]
"""Writes what is needed into a folder; gives the words behind ``prep``."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file and its outcome.

    Attributes:
        name: unique. content: the bytes, or a function that makes them. make: writes the files itself, in place of ``content``.
        expect: ``taken`` (all rows kept), ``drop N`` (N rows dropped, by a named reason), ``refused`` (one clear error); two
            with ``|`` only where the machine decides (root may read every file).
        file: its name. answers: what the first rows must teach, where the file is taken; None: not compared.
        seconds: in which it must end.
    """

    name: str
    content: bytes | Callable[[], bytes]
    expect: str
    file: str = "d.json"
    answers: tuple[str, ...] | None = None
    seconds: float = 30
    make: Make | None = None


def row(instruction: Any, output: Any) -> Row:
    return {"instruction": instruction, "output": output}


GOOD: list[Row] = [row("ask one", "Answer one."), row("ask two", "Answer two.")]
ANSWERS = ("Answer one.", "Answer two.")


def array(rows: Any = GOOD) -> bytes:
    """A JSON array of ASCII."""
    return json.dumps(rows).encode()


def raw(rows: Any) -> str:
    """A JSON array that has its characters as they are."""
    return json.dumps(rows, ensure_ascii=False)


def lines(rows: list[Row] = GOOD) -> bytes:
    """JSONL."""
    return b"".join(json.dumps(r).encode() + b"\n" for r in rows)


def chat(*turns: tuple[Any, Any]) -> Row:
    """A row of messages."""
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


GOOD_CHAT = chat(("user", "a"), ("assistant", "good"))
