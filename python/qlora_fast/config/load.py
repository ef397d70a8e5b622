"""From YAML files and `key=value` words to a :class:`Config`, with every problem reported at once."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml as pyyaml

from qlora_fast.config import foreign, yaml
from qlora_fast.config.checks import cross_checks
from qlora_fast.config.keys import KEYS, Config, about
from qlora_fast.errors import ConfigError

_TYPES = get_type_hints(Config)
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A config and what was read but has no effect (``place: key: reason``)."""

    config: Config
    ignored: list[str]


def load(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Loaded:
    """Read a config file (or only the defaults), apply `key=value` overrides, check everything.

    A file may name another one to start from: ``extends: ../base.yaml``.

    Raises:
        ConfigError: with all problems, each with its file and line.
    """
    entries: dict[str, yaml.Entry] = {}
    problems: list[str] = []
    if path is not None:
        entries, problems = _with_bases(Path(path), ())
    for word in overrides:
        name, equals, text = word.partition("=")
        if not equals:
            problems.append(f"`{word}` is not `key=value`")
            continue
        if text[:1] in ("[", "{", "'", '"'):
            parsed, trouble = yaml.parse(f"{name}: {text}", f"`{word}`")
            problems += trouble
            if name in parsed:
                entries[name] = yaml.Entry(parsed[name].value, f"`{word}`")
        else:
            # Anything else is meant as it stands: a colon or a `#` in a path is no YAML.
            entries[name] = yaml.Entry(None if text in ("", "null") else text, f"`{word}`")
    return _build(entries, problems)


def dump(config: Config) -> str:
    """The config as YAML that :func:`load` reads back to the same config."""
    values = {name: value for name, value in asdict(config).items() if value is not None}
    # PyYAML writes 5.0e-05, which reads back as the same float here.
    return pyyaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _with_bases(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, yaml.Entry], list[str]]:
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f"configs there: {', '.join(near[:6])}" if near else None
        raise ConfigError(f"no config file `{path}`", hint=hint)
    if path.resolve() in seen:
        return {}, [f"{path}: `extends` goes in a circle"]
    entries, problems = yaml.read(path)
    base = entries.pop("extends", None)
    if base is None:
        return entries, problems
    if not isinstance(base.value, str):
        return entries, [*problems, f"{base.place}: `extends` must be the path of another config"]
    below, more = _with_bases(path.parent / base.value, (*seen, path.resolve()))
    return {**below, **entries}, [*more, *problems]


def _build(entries: dict[str, yaml.Entry], problems: list[str]) -> Loaded:
    values: dict[str, Any] = {}
    ignored: list[str] = []
    for name, entry in entries.items():
        if name not in KEYS:
            problem = _foreign(name, entry, ignored)
            if problem:
                problems.append(f"{entry.place}: {problem}")
            continue
        if entry.value is None:
            continue  # `key:` and `key: null` leave a setting at its default
        value, problem = convert(entry.value, _TYPES[name])
        limit = about(name).limit
        if problem is None and limit is not None:
            problem = limit(value)
        if problem:
            problems.append(f"{entry.place}: `{name}` {problem}")
        else:
            values[name] = value
    if not problems:
        config = Config(**values)
        for name, problem in cross_checks(config):
            place = f"{entries[name].place}: " if name in entries else ""
            problems.append(f"{place}`{name}` {problem}")
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError("\n".join([f"{count} in the config", *(f"  {p}" for p in problems)]))
    return Loaded(config, ignored)


def _foreign(name: str, entry: yaml.Entry, ignored: list[str]) -> str | None:
    """What is wrong with a key that is not ours; a harmless one is noted as ignored."""
    if name in foreign.MUST_BE:
        accepted = foreign.MUST_BE[name]
        text = str(entry.value).lower()
        if text in accepted or (entry.value is None and "none" in accepted):
            ignored.append(f"{entry.place}: `{name}` is always so here")
            return None
        return f"`{name}: {entry.value}` is not supported; only {' or '.join(accepted)} is"
    if name in foreign.IGNORED:
        ignored.append(f"{entry.place}: `{name}` has no effect: {foreign.IGNORED[name]}")
        return None
    if name in foreign.REFUSED:
        return f"`{name}` cannot be honoured: {foreign.REFUSED[name]}"
    near = [foreign.RENAMED[name]] if name in foreign.RENAMED else get_close_matches(name, KEYS, n=1, cutoff=0.6)
    return f"unknown key `{name}`" + (f"; did you mean `{near[0]}`?" if near else "")


def convert(raw: str | list[str] | dict[str, str], kind: Any) -> tuple[Any, str | None]:
    """A raw value as its key's type, or the problem with it."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        inner = next(arg for arg in get_args(kind) if arg is not type(None))
        return convert(raw, inner)
    if origin is list:
        if isinstance(raw, dict):
            return None, "must be a list"
        items = raw if isinstance(raw, list) else raw.split(",")
        return [item.strip() for item in items if item.strip()], None
    if origin is dict:
        if isinstance(raw, dict):
            return raw, None
        pairs = [item.partition("=") for item in (raw if isinstance(raw, list) else raw.split(","))]
        if all(equals for _, equals, _ in pairs):
            return {name.strip(): text.strip() for name, _, text in pairs}, None
        return None, "must be a mapping, such as `{name: Kestrel}` or name=Kestrel,author=Lab"
    if not isinstance(raw, str):
        return None, f"must be {_words(kind)}"
    return _scalar(raw, kind)


def _scalar(text: str, kind: Any) -> tuple[Any, str | None]:
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if "true" in choices:
            text = "true" if text.lower() in _TRUE else "false" if text.lower() in _FALSE else text
        if text in choices:
            return text, None
        near = get_close_matches(text, choices, n=1)
        return None, f"must be one of {', '.join(choices)}; not `{text}`" + (
            f" (did you mean {near[0]}?)" if near else ""
        )
    if kind is str:
        return text, None
    if kind is bool:
        lowered = text.lower()
        if lowered in _TRUE + _FALSE:
            return lowered in _TRUE, None
        return None, f"must be true or false, not `{text}`"
    try:
        if kind is int:
            return int(text.replace("_", "")), None
        number = float(text.replace("_", ""))
    except ValueError:
        return None, f"must be {_words(kind)}, not `{text}`"
    if number != number or number in (float("inf"), float("-inf")):
        return None, f"must be a finite number, not `{text}`"
    return number, None


def _words(kind: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "text")
