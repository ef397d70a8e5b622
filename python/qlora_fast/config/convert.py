"""Values of settings: read from the text of YAML or of a command line, checked against their key's type by msgspec."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from qlora_fast.config import yaml
from qlora_fast.config.paths import NOT_UNICODE, is_unicode

Text = str | list[str] | dict[str, str]
"""A value before its key gives it a type."""
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_CONTAINERS = {list: "a list", dict: "a mapping, such as `{name: Kestrel}` or name=Kestrel,author=Lab"}


def convert(raw: Text, kind: Any) -> tuple[Any, str | None]:
    """A raw value as its key's type, or the problem with it: the first of its readings that the type takes."""
    for reading in _readings(raw):
        value, problem = check(reading, kind)
        if problem is None:
            return value, None
    return None, _problem(raw, kind)


def check(value: Any, kind: Any) -> tuple[Any, str | None]:
    """A value of Python as its key's type, or the problem with it."""
    if not is_unicode(value):
        return value, NOT_UNICODE
    try:
        found = msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return value, _problem(value, kind)
    if isinstance(found, float) and not math.isfinite(found):
        return value, f"must be a finite number, not `{value}`"
    return found, None


def words(kind: Any) -> str:
    """A type with its limits, in words: "a whole number of at least 8"."""
    if get_origin(kind) is Annotated:
        meta: msgspec.Meta = get_args(kind)[1]
        return meta.description or f"{bare(kind)}{_limits(meta)}"
    if get_origin(kind) in (Union, types.UnionType):
        return ", or ".join(words(inner) for inner in get_args(kind) if inner is not types.NoneType)
    return bare(kind)


def bare(kind: Any) -> str:
    """A type without its limits, in words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return bare(args[0])
    if origin in (Union, types.UnionType):
        offered = [bare(inner) for inner in args if inner is not types.NoneType]
        # A number that may be whole is a number.
        return ", or ".join(one for one in offered if one != "a whole number" or "a number" not in offered)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is list:
        inner = args[0]
        return (
            f"a list of {', '.join(choices(inner))}"
            if choices(inner)
            else "a list"
            if inner is str
            else "a list of numbers"
        )
    return {int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping"}.get(
        origin or kind, "text"
    )


def choices(kind: Any) -> tuple[Any, ...]:
    """The words or numbers that a type offers, also through an optional or a list of them; none for an open one."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(choice for inner in get_args(kind) for choice in choices(inner))


def limits(kind: Any) -> str:
    """What must hold of a value beyond its bare type, in words; empty where nothing must."""
    if get_origin(kind) in (Union, types.UnionType):
        return next((found for inner in get_args(kind) if (found := limits(inner))), "")
    if get_origin(kind) is not Annotated:
        return ""
    meta: msgspec.Meta = get_args(kind)[1]
    return f"be {meta.description or _limits(meta).removeprefix(' of ').removeprefix(' ')}"


def _limits(meta: msgspec.Meta) -> str:
    low, high = (meta.ge, meta.gt), (meta.le, meta.lt)
    if low == (None, None):
        return ""
    if high == (None, None):
        return f" greater than {meta.gt}" if meta.gt is not None else f" of at least {meta.ge}"
    end = f"{meta.le}" if meta.le is not None else f"below {meta.lt}"
    return f" from {meta.ge} to {end}"


def _problem(value: Any, kind: Any) -> str:
    if not is_unicode(value):
        return NOT_UNICODE
    if isinstance(value, str) and (offered := [c for c in choices(kind) if isinstance(c, str)]):
        near = get_close_matches(value, offered, n=1)
        return f"must be {words(kind)}; not `{value}`" + (f" (did you mean {near[0]}?)" if near else "")
    container = _CONTAINERS.get(get_origin(kind))
    if container is not None and not isinstance(value, list | dict):
        return f"must be {container}"
    shown = ", ".join(map(str, value)) if isinstance(value, list) else value
    return f"must be {words(kind)}" if isinstance(value, dict) else f"must be {words(kind)}, not `{shown}`"


def _readings(raw: Text) -> Iterator[Any]:
    """What a text may mean, the most specific first; the types of the keys decide."""
    if isinstance(raw, dict):
        yield raw
        return
    if isinstance(raw, str):
        lowered = raw.lower()
        if lowered in _TRUE + _FALSE:
            yield lowered in _TRUE
        yield from _numbers(raw)
        yield raw
        # Choices that are spelled like a switch: `eval_strategy: no`, `gradient_checkpointing: on`.
        yield from ("true",) if lowered in _TRUE else ("false", "no") if lowered in _FALSE else ()
        yield from _braces(raw)
    items = [item.strip() for item in (raw if isinstance(raw, list) else raw.split(",")) if item.strip()]
    numbers = [next(iter(_numbers(item)), item) for item in items]
    yield numbers
    yield items
    pairs = [item.partition("=") for item in items]
    if all(equals for _, equals, _ in pairs):
        yield {name.strip(): text.strip() for name, _, text in pairs}


def _numbers(text: str) -> Iterator[int | float]:
    """``1000``, ``1_000``, and ``1e3`` or ``1000.0``, which are as whole; then the number with a fraction."""
    try:
        number = float(text)
    except ValueError:
        return
    if math.isfinite(number):
        try:
            yield int(text)
        except ValueError:
            if number.is_integer():
                yield int(number)
        yield number


def _braces(text: str) -> Iterator[Any]:
    """A quoted `{…}`, as other programs' files write it."""
    if text.lstrip().startswith("{"):
        entry = yaml.parse(f"value: {text}", "")[0].get("value")
        if entry is not None and isinstance(entry.value, dict):
            yield entry.value
