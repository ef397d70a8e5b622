"""What becomes of every key of a config file, for people who bring one from another program."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from qlora_fast.config.keys import KEYS, about, default
from qlora_fast.config.load import Reading

FATES = ("used", "translated", "ignored", "refused", "unknown")
_MARKS = {"stage", "do_train", "finetuning_type"}
"""Keys that LLaMA-Factory's files have and ours do not need."""


def report(reading: Reading) -> dict[str, Any]:
    """The verdicts as one document; the same whether a person or a program reads it."""
    counts: Counter[str] = Counter(v.fate for v in reading.verdicts)
    given = {v.key for v in reading.verdicts} | {name for v in reading.verdicts for name in v.becomes}
    theirs = bool(given & _MARKS)
    keys = [asdict(v) for v in reading.verdicts]
    for verdict in keys if theirs else []:
        if verdict["fate"] == "used" and not verdict["reason"] and verdict["key"] in KEYS:
            verdict["reason"] = about(verdict["key"]).differs
    return {
        "loads": reading.config is not None,
        "counts": {fate: counts[fate] for fate in FATES},
        "keys": keys,
        "problems": reading.problems,
        "other_defaults": _other_defaults(given) if theirs else [],
    }


def _other_defaults(given: set[str]) -> list[dict[str, str]]:
    """Settings that the file leaves to defaults that are not the same here and in LLaMA-Factory."""
    return [
        {"key": name, "llamafactory": about(name).there, "here": text(default(name))}
        for name in KEYS
        if about(name).there and name not in given
    ]


def text(value: Any) -> str:
    """A value as it would stand in a config file."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "unset"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}"
    return str(value) or "''"
