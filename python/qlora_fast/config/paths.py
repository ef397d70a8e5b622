"""Paths in settings: ``~`` and environment variables expanded, a base model's folder absolute."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))")

_NO_PLACE = {errno.ENAMETOOLONG: "is longer than a file's name can be", errno.ELOOP: "is a link that leads to itself"}
NOT_UNICODE = "is not UTF-8: rename the file or folder"
"""What is wrong with a name that is no text: neither JSON nor YAML can hold it, and libraries that read models refuse it."""


def expanded(value: Any) -> tuple[Any, str | None]:
    """A path, or a list of them, with ``~`` and ``$NAME`` replaced; or the problem with it. What is no text stays.

    A variable that is not set is a problem: it would become a folder of that name. A file that has the very name is meant.
    """
    if isinstance(value, list):
        pairs = [expanded(item) for item in value]
        return [path for path, _ in pairs], next((problem for _, problem in pairs if problem), None)
    if not isinstance(value, str) or value.startswith("{"):  # a template's source, as it is stored beside an adapter
        return value, None
    for braced, plain in _VARIABLE.findall(value):
        if (braced or plain) not in os.environ:
            if os.path.lexists(value):
                return value, None
            return value, f"names the environment variable `{braced or plain}`, which is not set"
    found = os.path.expanduser(_VARIABLE.sub(lambda m: os.environ[m[1] or m[2]], value))
    return found, _unusable(found)


def _unusable(path: str) -> str | None:
    """Why no file can be at a path; None if one can. Functions of pathlib raise on such paths, each another error."""
    if not path:
        return "is an empty path, as of a shell variable that is not set"
    if not is_unicode(path):
        return NOT_UNICODE
    try:
        os.stat(path)
    except ValueError:
        return "contains a NUL character"
    except OSError as error:
        return _NO_PLACE.get(error.errno or 0)
    return None


def is_unicode(value: Any) -> bool:
    """Whether all text in a value, its lists and mappings is Unicode: no halves of surrogate pairs, no undecoded bytes."""
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return all(is_unicode(part) for pair in value.items() for part in pair)
    return all(map(is_unicode, value)) if isinstance(value, list | tuple) else True


def settled_base(name: str) -> str:
    """A base model's folder or file as an absolute path, so that it is found from any working folder; else the name."""
    path = Path(name)
    return str(path.absolute()) if not path.is_absolute() and (path.is_dir() or name.endswith(".gguf")) else name
