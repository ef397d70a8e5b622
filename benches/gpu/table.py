"""The table, from whatever lines there are: complete after any abort, because what is missing is a line of it too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benches.gpu.schedule import Item

Record = dict[str, Any]


def table(records: Sequence[Record], items: Sequence[Item]) -> str:
    """Markdown: one section an item, in the schedule's order."""
    sections = [_head(records)]
    for item in items:
        own = [r for r in records if r["item"] == item.name]
        end = next((r for r in own if "ended" in r), None)
        state = "not run: stopped before it began" if end is None else _state(end)
        sections.append(f"#### {item.name}: {item.shows} ({state})\n")
        sections += [_rows([r for r in own if "row" in r])] + [f"- {r['note']}" for r in own if "note" in r]
        if end is not None and end["ended"] == "failed":
            sections.append("```\n" + end["why"] + "\n```")
    return "\n".join(s for s in sections if s) + "\n"


def failed(records: Sequence[Record], items: Sequence[Item]) -> bool:
    """Whether any item did not end well, or any of its rows says that something is wrong."""
    ended = {r["item"]: r["ended"] for r in records if "ended" in r}
    return any(ended.get(item.name) != "done" for item in items) or any(r.get("wrong") for r in records)


def _head(records: Sequence[Record]) -> str:
    about = next((r["machine"] for r in records if "machine" in r), None)
    return (
        "### "
        + (", ".join(f"{v}" for v in about.values()) if about else "machine unknown: `limits` did not get that far")
        + "\n"
    )


def _state(end: Record) -> str:
    lines = end["why"].splitlines()
    # Of an error, the last line says what it was.
    why = f", {lines[-1][:160]}" if lines else ""
    return f"{end['ended']} in {end['seconds']:.0f} s{why}"


def _rows(records: Sequence[Record]) -> str:
    """Records with a ``row`` (column → value) as one table; columns in the order in which they first come up."""
    if not records:
        return ""
    columns = list(dict.fromkeys(name for r in records for name in r["row"]))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(r["row"].get(name)) for name in columns) + " |" for r in records]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
