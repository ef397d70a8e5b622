"""What becomes of every key of a config file, for people who bring one from another program."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from qlora_fast import _core
from qlora_fast.config.judge import Reading
from qlora_fast.config.keys import KEYS, about, default

FATES = ("used", "translated", "ignored", "refused", "unknown")
_MARKS = {"stage", "do_train", "finetuning_type"}
"""Keys that LLaMA-Factory's files have and ours do not need."""


def report(reading: Reading) -> dict[str, Any]:
    """The verdicts as one document; the same whether a person or a program reads it."""
    given = {v.key for v in reading.verdicts} | {name for v in reading.verdicts for name in v.becomes}
    theirs = bool(given & _MARKS)
    problems = reading.problems + _unknown_template(reading)
    counts: Counter[str] = Counter(v.fate for v in reading.verdicts)
    keys = [asdict(v) for v in reading.verdicts]
    for verdict in keys if theirs else []:
        if verdict["fate"] == "used" and not verdict["reason"] and verdict["key"] in KEYS:
            verdict["reason"] = about(verdict["key"]).differs
    return {
        "loads": not problems,
        "counts": {fate: counts[fate] for fate in FATES},
        "keys": keys,
        "problems": problems,
        "other_defaults": _other_defaults(given) if theirs else [],
    }


def _unknown_template(reading: Reading) -> list[str]:
    """Templates are read when the data is; `config explain` reports on them before."""
    built_in = _core.templates()
    for verdict in reading.verdicts:
        name = str(verdict.value)
        if verdict.key != "template" or verdict.fate != "used" or verdict.value is None:
            continue
        if name not in ("auto", "jinja", *built_in) and Path(name).suffix not in (".yaml", ".yml"):
            near = get_close_matches(name, built_in, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            verdict.fate = "refused"
            verdict.reason = f"no built-in template; {hint}auto takes the one that renders as the model's own does"
            return [f"{verdict.place}: `template: {name}` is {verdict.reason}"]
    return []


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
