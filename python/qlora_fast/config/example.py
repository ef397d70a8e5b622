"""The example configs of the package, each as one file that needs no other."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from qlora_fast.errors import ConfigError

FOLDER = Path(__file__).parent / "examples"
_EXTENDS = re.compile(r"^extends: *(\S+).*\n", re.MULTILINE)
_LINE = re.compile(r"^(\w+):.*$")
_SENTENCES = re.compile(r".*\.(?= |$)")
"""A full stop ends a sentence before a blank or the line's end: the one of `4.5 GB` does not."""


def names() -> dict[str, Path]:
    """The examples by name; templates are no configs."""
    found = (path for path in sorted(FOLDER.rglob("*.yaml")) if path.parent.name != "templates")
    return {path.stem: path for path in found}


def about(path: Path) -> str:
    """What an example is for: the whole sentences in the first line of its comment."""
    line = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
    whole = _SENTENCES.match(line)
    return whole[0] if whole else line


def text(name: str) -> str:
    """An example's YAML, with what it extends written into it.

    Raises:
        ConfigError: there is none of that name.
    """
    known = names()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ConfigError(f"no example config `{name}`", hint=hint)
    # Its comments name the file as it lies in the repository.
    return re.sub(r"configs/(?:\w+/)?([\w.-]+\.yaml)", r"\1", _flattened(known[name]))


def _flattened(path: Path) -> str:
    own = path.read_text(encoding="utf-8")
    base = _EXTENDS.search(own)
    if base is None:
        return own
    below = _flattened(path.parent / base[1])
    head, body = own[: base.start()], own[base.end() :]
    lines = _without_head(below).splitlines()
    places = {found[1]: at for at, line in enumerate(lines) if (found := _LINE.match(line))}
    added = []
    for line in body.splitlines():
        found = _LINE.match(line)
        if found and found[1] in places:
            lines[places[found[1]]] = line
        elif line.strip():
            added.append(line)
    return "\n".join([head.rstrip("\n"), *lines, *(["", "### of this example alone", *added] if added else [])]) + "\n"


def _without_head(text: str) -> str:
    """Without the comments at the start, which say what the extended file is for."""
    lines = text.splitlines(keepends=True)
    start = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(lines[start:])
