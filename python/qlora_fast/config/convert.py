"""A text leaf of YAML, or a word of the command line, as the type that its key asks for."""

from __future__ import annotations

import types
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin

from qlora_fast.config import yaml

_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


def convert(raw: str | list[str] | dict[str, str], kind: Any) -> tuple[Any, str | None]:
    """A raw value as its key's type, or the problem with it."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        for inner in alternatives(kind):
            value, problem = convert(raw, inner)
            if problem is None:
                return value, None
        # The last one takes what the others do not: a number where it need not be whole, text where it need not be a word.
        return None, problem
    if origin is list:
        return _list(raw, get_args(kind)[0])
    if origin is dict:
        return _mapping(raw)
    if not isinstance(raw, str):
        return None, f"must be {words(kind)}"
    return _scalar(raw, kind)


def alternatives(kind: Any) -> list[Any]:
    """The types that a union offers, in the order in which they are tried; None is how a key is unset, and is none of them."""
    return [arg for arg in get_args(kind) if arg is not type(None)]


def words(kind: Any) -> str:
    """A type, as a person names it."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        offered = alternatives(kind)
        return ", or ".join(words(inner) for inner in offered if inner is not int or float not in offered)
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if origin is list:
        inner = get_args(kind)[0]
        return "a list" if inner is str else f"a list of {words(inner).removeprefix('a ')}s"
    if origin is dict:
        return "a mapping"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "text")


def _list(raw: str | list[str] | dict[str, str], inner: Any) -> tuple[Any, str | None]:
    if isinstance(raw, dict):
        return None, "must be a list"
    items = [item.strip() for item in (raw if isinstance(raw, list) else raw.split(","))]
    converted = [_scalar(item, inner) for item in items if item]
    problem = next((problem for _, problem in converted if problem), None)
    return (None, problem) if problem else ([value for value, _ in converted], None)


def _mapping(raw: str | list[str] | dict[str, str]) -> tuple[Any, str | None]:
    if isinstance(raw, str) and raw.lstrip().startswith("{"):
        # A quoted `{…}`, as other programs' files write it.
        entry = yaml.parse(f"value: {raw}", "")[0].get("value")
        raw = entry.value if entry and isinstance(entry.value, dict) else raw
    if isinstance(raw, dict):
        return raw, None
    pairs = [item.partition("=") for item in (raw if isinstance(raw, list) else raw.split(","))]
    if all(equals for _, equals, _ in pairs):
        return {name.strip(): text.strip() for name, _, text in pairs}, None
    return None, "must be a mapping, such as `{name: Kestrel}` or name=Kestrel,author=Lab"


def _scalar(text: str, kind: Any) -> tuple[Any, str | None]:
    if get_origin(kind) is Literal:
        return _choice(text, get_args(kind))
    if kind is str:
        return text, None
    if kind is bool:
        lowered = text.lower()
        if lowered in _TRUE + _FALSE:
            return lowered in _TRUE, None
        return None, f"must be true or false, not `{text}`"
    try:
        if kind is int:
            return _whole(text.replace("_", "")), None
        number = float(text.replace("_", ""))
    except ValueError:
        return None, f"must be {words(kind)}, not `{text}`"
    if number != number or number in (float("inf"), float("-inf")):
        return None, f"must be a finite number, not `{text}`"
    return number, None


def _choice(text: str, choices: tuple[str, ...]) -> tuple[Any, str | None]:
    lowered = text.lower()
    if "true" in choices and lowered in _TRUE + _FALSE:
        text = "true" if lowered in _TRUE else "false"
    elif "no" in choices and lowered in _FALSE:
        text = "no"
    if text in choices:
        return text, None
    near = get_close_matches(text, choices, n=1)
    return None, f"must be one of {', '.join(choices)}; not `{text}`" + (f" (did you mean {near[0]}?)" if near else "")


def _whole(text: str) -> int:
    """``1000``, and ``1e3`` or ``1000.0``, which are as whole."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)
