"""From YAML files and `key=value` words to a :class:`Config`, with every problem reported at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from qlora_fast.config import yaml
from qlora_fast.config.checks import cross_checks, without_effect
from qlora_fast.config.convert import convert
from qlora_fast.config.foreign import (
    NOT_FOR_EYES,
    RENAMED,
    RULES,
    Fate,
    Translation,
    by_rule,
    foreign_key,
    foreign_value,
)
from qlora_fast.config.keys import KEYS, Config, about
from qlora_fast.errors import ConfigError

TYPES = get_type_hints(Config)


@dataclass(slots=True)
class Verdict:
    """What became of one key that was read."""

    key: str
    value: Any
    place: str
    fate: Fate
    reason: str = ""
    becomes: dict[str, str] = field(default_factory=dict)
    """The settings that a translated key stands for."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A config, and what became of every key that was read."""

    config: Config
    verdicts: list[Verdict]

    @property
    def ignored(self) -> list[str]:
        """What was read and has no effect (``place: key: reason``)."""
        found = [v for v in self.verdicts if v.fate == "ignored" and v.value is not None]
        return [f"{v.place}: `{v.key}` has no effect: {v.reason}" for v in found]


@dataclass(slots=True)
class Reading:
    """Everything that was found out about a config, whether it loads or not."""

    verdicts: list[Verdict]
    problems: list[str]
    config: Config | None


def load(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Loaded:
    """Read a config file (or only the defaults), apply `key=value` overrides, check everything.

    A file may name another one to start from: ``extends: ../base.yaml``.

    Raises:
        ConfigError: with all problems, each with its file and line.
    """
    return _sound(examine(path, overrides))


def of(**settings: Any) -> Config:
    """A config from values of Python, held to the same types and limits: ``of(lora_rank=16, dataset=["a.json"])``.

    Raises:
        ConfigError: with all problems.
    """
    return _sound(_Judge({name: yaml.Entry(_raw(value), "") for name, value in settings.items()}, []).judge()).config


def examine(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Reading:
    """:func:`load` without raising for what is wrong in the file: what becomes of each key, and the problems."""
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
                entries[name] = yaml.Entry(parsed[name].value, f"`{word}`", parsed[name].problem)
        else:
            # Anything else is meant as it stands: a colon or a `#` in a path is no YAML.
            entries[name] = yaml.Entry(None if text in ("", "null") else text, f"`{word}`")
    return _Judge(entries, problems).judge()


def _sound(reading: Reading) -> Loaded:
    if reading.config is None:
        problems = reading.problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError("\n".join([f"{count} in the config", *(f"  {p}" for p in problems)]))
    return Loaded(reading.config, reading.verdicts)


def _raw(value: Any) -> yaml.Raw:
    """A value of Python as a config file would say it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return [str(item) for item in value]
    if isinstance(value, dict):
        return {str(name): str(item) for name, item in value.items()}
    return str(value).lower() if isinstance(value, bool) else str(value)


def dump(config: Config) -> str:
    """The config as YAML that :func:`load` reads back to the same config."""
    import yaml as pyyaml

    values = {name: value for name, value in asdict(config).items() if value is not None}
    # PyYAML writes 5.0e-05, which reads back as the same float here.
    return pyyaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _with_bases(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, yaml.Entry], list[str]]:
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f"configs there: {', '.join(near[:6])}" if near else "a config is a YAML file, such as configs/base.yaml"
        raise ConfigError(f"no config file `{path}`", hint=hint)
    if _is_data(path):
        raise ConfigError(f"`{path}` is data, not a config", hint=f"data is a setting: CONFIG.yaml dataset={path}")
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


class _Judge:
    """Decides about each entry in turn, and about all of them together at the end."""

    def __init__(self, entries: dict[str, yaml.Entry], problems: list[str]) -> None:
        self._entries, self._problems = entries, problems
        self._verdicts: dict[str, Verdict] = {}
        self._values: dict[str, Any] = {}
        self._places: dict[str, str] = {}

    def judge(self) -> Reading:
        for name, entry in self._entries.items():
            shown = "…" if name.endswith(NOT_FOR_EYES) else "{…}" if entry.problem else entry.value
            verdict = self._verdicts[name] = Verdict(name, shown, entry.place, "used")
            if name in KEYS:
                self._own(verdict, entry)
            else:
                self._foreign(verdict, entry)
        verdicts = list(self._verdicts.values())
        if self._problems:
            return Reading(verdicts, self._problems, None)
        config = Config(**self._values)
        for name, problem in cross_checks(config):
            self._problem(name, problem)
        for name, reason in without_effect(config, list(self._entries)).items():
            self._verdicts[name].fate, self._verdicts[name].reason = "ignored", reason
        return Reading(verdicts, self._problems, None if self._problems else config)

    def _own(self, verdict: Verdict, entry: yaml.Entry) -> None:
        name = verdict.key
        if entry.problem:
            self._problem(name, entry.problem)
        elif entry.value is None:
            verdict.reason = "unset: the default"  # `key:` and `key: null`
        elif isinstance(entry.value, str) and (translation := foreign_value(name, entry.value)):
            self._apply(verdict, translation)
        else:
            self._set(name, entry.value, entry.place)

    def _foreign(self, verdict: Verdict, entry: yaml.Entry) -> None:
        name = verdict.key
        text = entry.value if isinstance(entry.value, str) else str(entry.value)
        if entry.value is None and entry.problem is None and (name in RULES or foreign_key(name, "")):
            verdict.fate, verdict.reason = "ignored", "unset"
        elif translation := foreign_key(name, text):
            self._apply(verdict, translation)
        elif name in RULES:
            self._apply(verdict, by_rule(RULES[name], text))
        else:
            near = [RENAMED[name]] if name in RENAMED else get_close_matches(name, KEYS, n=1, cutoff=0.6)
            verdict.fate = "unknown"
            verdict.reason = f"did you mean `{near[0]}`?" if near else "no such setting"
            mend = f"; did you mean `{near[0]}`?" if near else ""
            self._problems.append(f"{_at(verdict.place)}unknown key `{name}`{mend}")

    def _apply(self, verdict: Verdict, translation: Translation) -> None:
        verdict.fate, verdict.reason = translation.fate, translation.reason
        if translation.fate == "refused":
            self._problems.append(f"{_at(verdict.place)}{_refusal(verdict)}")
        if not translation.key:
            return
        target = self._entries.get(translation.key)
        if target is not None and target.value is not None and translation.key != verdict.key:
            said = foreign_value(translation.key, str(target.value))
            if (said.value if said and said.key else target.value) == translation.value:
                verdict.becomes = {translation.key: translation.value}
            elif target.place.startswith("`"):  # a word of the command line has the last say
                verdict.fate, verdict.reason = "ignored", f"{target.place} overrides it"
            else:
                self._problem(verdict.key, f"contradicts `{translation.key}` at {target.place}")
            return
        verdict.becomes = {translation.key: translation.value}
        self._set(translation.key, translation.value, verdict.place)

    def _set(self, name: str, raw: str | list[str] | dict[str, str], place: str) -> None:
        self._places[name] = place
        value, problem = convert(raw, TYPES[name])
        limit = about(name).limit
        if problem is None and limit is not None:
            problem = limit(value)
        if problem:
            self._problem(name, problem)
        else:
            self._values[name] = value

    def _problem(self, name: str, problem: str) -> None:
        place = self._places.get(name) or (self._entries[name].place if name in self._entries else "")
        self._problems.append(f"{_at(place)}`{name}` {problem}")
        if name in self._verdicts:
            self._verdicts[name].fate, self._verdicts[name].reason = "refused", problem


def _at(place: str) -> str:
    return f"{place}: " if place else ""


def _refusal(verdict: Verdict) -> str:
    said = f"`{verdict.key}: {verdict.value}`"
    rule = RULES.get(verdict.key)
    mend = f"; only {rule.harmless[0]} is" if rule and len(rule.harmless) == 1 else ""
    return f"{said} is not supported{mend}: {verdict.reason}"


def _is_data(path: Path) -> bool:
    """Whether somebody gave the training data where the config belongs: YAML may take minutes to say that it is none."""
    if path.suffix in (".jsonl", ".ndjson", ".parquet", ".gz", ".zst"):
        return True
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
