"""From YAML files and `key=value` words to a :class:`Config`, with every problem reported at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qlora_fast.config import yaml
from qlora_fast.config.config import Config, listed
from qlora_fast.config.judge import Judge, Reading, Verdict
from qlora_fast.config.paths import expanded
from qlora_fast.errors import ConfigError

Given = Sequence[str] | Mapping[str, Any]
"""Settings over a file's: ``key=value`` words, or values by key."""


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


def load(path: str | Path | None = None, given: Given = ()) -> Loaded:
    """Read a config file (or only the defaults), apply the settings given over it, check everything.

    A file may name another one to start from: ``extends: ../base.yaml``.

    Args:
        given: ``key=value`` words of a command line, or what :func:`overrides` made of them; they win over the file.

    Raises:
        ConfigError: with all problems, each with its file and line.
    """
    return _sound(examine(path, given))


def of(**settings: Any) -> Config:
    """A config from values of Python, held to the same types and limits: ``of(lora_rank=16, dataset=["a.json"])``.

    Raises:
        ConfigError: with all problems.
    """
    return _sound(Judge({name: yaml.Entry(_raw(value), "") for name, value in settings.items()}, []).judge()).config


def examine(path: str | Path | None = None, given: Given = ()) -> Reading:
    """:func:`load` without raising for what is wrong in the file: what becomes of each key, and the problems."""
    entries: dict[str, yaml.Entry] = {}
    problems: list[str] = []
    if path is not None:
        entries, problems = _with_bases(Path(path), ())
    over, more = _read_given(given)
    return Judge(entries | over, problems + more).judge()


def overrides(words: Sequence[str]) -> dict[str, Any]:
    """The settings that ``key=value`` words of a command line give, by key, each as the type of its key.

    Raises:
        ConfigError: with all problems: no ``=``, an unknown key, a value that is not one of its key.
    """
    judge = Judge(*_read_given(words))
    judge.decide()
    if judge.problems:
        raise ConfigError(listed(judge.problems))
    return judge.values


def _read_given(words: Given) -> tuple[dict[str, yaml.Entry], list[str]]:
    if isinstance(words, Mapping):
        return {name: yaml.Entry(_raw(value), f"`{name}`", layer=1) for name, value in words.items()}, []
    entries: dict[str, yaml.Entry] = {}
    problems: list[str] = []
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            problems.append(f"`{word}` is not `key=value`")
            continue
        value: yaml.Raw = None if text in ("", "null") else text
        problem = None
        # Anything that is not bracketed or quoted is meant as it is: a colon or a `#` in a path is no YAML.
        if text[:1] in ("[", "{", "'", '"'):
            parsed, trouble = yaml.parse(f"{name}: {text}", f"`{word}`")
            problems += trouble
            if name not in parsed:
                continue
            value, problem = parsed[name].value, parsed[name].problem
        entries[name] = yaml.Entry(value, f"`{word}`", problem, layer=1)
    return entries, problems


def _sound(reading: Reading) -> Loaded:
    if reading.config is None:
        raise ConfigError(listed(reading.problems))
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
    if path.exists() and not path.is_file():
        within = sorted(str(file) for file in path.glob("*.yaml"))
        hint = f"configs in it: {', '.join(within[:6])}" if within else "a config is a YAML file"
        raise ConfigError(f"`{path}` is {'a folder' if path.is_dir() else 'not a file'}", hint=hint)
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = (
            f"configs there: {', '.join(near[:6])}"
            if near
            else "`qlora-fast config example base > my.yaml` writes one; `qlora-fast init data.json` makes one for your data"
        )
        raise ConfigError(f"no config file `{path}`", hint=hint)
    if _is_data(path):
        raise ConfigError(f"`{path}` is data, not a config", hint=f"data is a setting: CONFIG.yaml dataset={path}")
    if path.resolve() in seen:
        return {}, [f"{path}: `extends` goes in a circle"]
    entries, problems = yaml.read(path, -len(seen))
    base = entries.pop("extends", None)
    if base is None:
        return entries, problems
    if not isinstance(base.value, str):
        return entries, [*problems, f"{base.place}: `extends` must be the path of another config"]
    named, problem = expanded(base.value)
    if problem:
        return entries, [*problems, f"{base.place}: `extends` {problem}"]
    below, more = _with_bases(path.parent / named, (*seen, path.resolve()))
    return {**below, **entries}, [*more, *problems]


def _is_data(path: Path) -> bool:
    """Whether the training data was given in place of the config: YAML may take minutes to reject it."""
    if path.suffix in (".jsonl", ".ndjson", ".parquet", ".gz", ".zst"):
        return True
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
