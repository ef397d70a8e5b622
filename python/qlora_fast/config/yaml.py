"""YAML whose scalars keep their text until their key gives them a type.

PyYAML alone reads ``5e-5`` as a string, ``no`` as False, ``012`` as 10, and silently keeps the last of two equal keys. Here a file becomes ``{key: (value, line)}`` with text leaves, and a duplicate key is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where it is needed: a command without a file does not wait for it
    import yaml

Raw = str | None | list[str] | dict[str, str]
"""A value before its key gives it a type; None is an empty or `null` value."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A raw value and the place it was written at, such as ``base.yaml:12``."""

    value: Raw
    place: str
    problem: str | None = None
    """What is wrong with a value that is no scalar, flat list or flat mapping; its key decides whether it matters."""
    layer: int = 0
    """Which of two contradicting settings wins, the larger: 0 for the config file, less for the files it extends, 1 for
    the command line."""


def read(path: Path, layer: int = 0) -> tuple[dict[str, Entry], list[str]]:
    """All entries of a flat YAML file, and the problems found on the way."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return {}, [f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})"]
    return parse(text, str(path), layer)


def parse(text: str, name: str, layer: int = 0) -> tuple[dict[str, Entry], list[str]]:
    """:func:`read` for text in memory."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        return {}, [f"{place}: is not valid YAML: {_in_plain_words(error.problem or error.context or '')}"]
    except yaml.YAMLError as error:
        return {}, [f"{name}: is not valid YAML: {error}"]
    except RecursionError:
        return {}, [f"{name}: is nested too deeply"]
    except (ValueError, OverflowError) as error:  # an escape of no character
        return {}, [f"{name}: is not valid YAML: {error}"]
    if root is None:
        return {}, []
    if not isinstance(root, yaml.MappingNode):
        return {}, [f"{name}:{root.start_mark.line + 1}: must be lines of `key: value`, with a blank after the colon"]
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    for key_node, value_node in root.value:
        place = f"{name}:{key_node.start_mark.line + 1}"
        key = str(key_node.value)
        if key in entries:
            problems.append(f"{place}: `{key}` is set twice; it was set at {entries[key].place}")
            continue
        value, problem = _raw(value_node)
        entries[key] = Entry(value, place, problem, layer)
    return entries, problems


_PLAIN_WORDS = (
    ("found character '\\t'", "there is a tab here; YAML is indented and separated by blanks"),
    ("cannot start any token", "put the value in quotes"),
    ("mapping values are not allowed", "is the line indented, or the line before it no `key: value`? a value with `: ` in it needs quotes"),
    ("expected alphabetic or numeric character", "a value that begins with `*` or `&` needs quotes"),
    ("found unexpected end of stream", "a quote or a bracket is not closed"),
    ("unknown escape character", 'in double quotes a backslash is written \\\\; single quotes leave it as it is'),
    ("found another document", "a config has no `---` between its lines"),
)  # fmt: skip
"""What a fault of PyYAML most likely comes from, by words of its message."""


def _in_plain_words(problem: str) -> str:
    return next((f"{problem}: {plain}" for words, plain in _PLAIN_WORDS if words in problem), problem)


def _raw(node: yaml.Node) -> tuple[Raw, str | None]:
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return _scalar(node), None
    if isinstance(node, yaml.SequenceNode):
        if all(isinstance(item, yaml.ScalarNode) for item in node.value):
            return [_scalar(item) or "" for item in node.value], None
        return None, "must be a flat list"
    pairs = node.value
    if all(isinstance(k, yaml.ScalarNode) and isinstance(v, yaml.ScalarNode) for k, v in pairs):
        return {str(k.value): _scalar(v) or "" for k, v in pairs}, None
    return None, "must be a flat mapping"


def _scalar(node: yaml.ScalarNode) -> str | None:
    quoted = node.style in ("'", '"', "|", ">")
    if not quoted and node.value in ("", "~", "null", "Null", "NULL"):
        return None
    return str(node.value)
