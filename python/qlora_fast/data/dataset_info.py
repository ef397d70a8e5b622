"""LLaMA-Factory's ``dataset_info.json``: names for data files, and what their columns and roles are called.

Names that a ``columns`` or ``tags`` block leaves out keep their defaults. There they become none, and a column is
silently lost; here an entry that relied on that says so with an empty name (``"query": ""``).
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from qlora_fast.errors import DataError, first_line

log = logging.getLogger(__name__)

FILE = "dataset_info.json"
_LISTS = {"alpaca": "conversations", "sharegpt": "conversations", "openai": "messages"}
"""Formats, and our name of the column that holds the turns."""
_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
    "system": "system",
    "tools": "tools",
}
_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "observation",
    "function_tag": "function",
    "system_tag": "system",
}
_KEYS = ("file_name", "formatting", "columns", "tags", "num_samples", "ranking", "split", "subset", "folder")
_ELSEWHERE = {
    "hf_hub_url": "is on the Hugging Face hub",
    "ms_hub_url": "is on the ModelScope hub",
    "om_hub_url": "is on the Modelers hub",
    "cloud_file_name": "is in a cloud bucket",
    "script_url": "is made by a script, and no code of a dataset is ever run",
}
_NO_COLUMNS = {
    "images": "pictures are not trained on",
    "videos": "video is not trained on",
    "audios": "sound is not trained on",
    "chosen": "preference pairs are not trained on",
    "rejected": "preference pairs are not trained on",
    "kto_tag": "preference marks are not trained on",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One dataset of the file: where its data lies and how it is laid out (as the core's ``Layout``)."""

    path: Path
    layout: dict[str, Any] = field(default_factory=dict)
    num_samples: int | None = None


def names(folder: Path) -> list[str]:
    """The datasets that the folder's dataset_info.json lists; none without one."""
    return list(_read(folder))


def find(name: str, folder: Path) -> Entry | None:
    """The dataset of this name, or None if the folder's dataset_info.json does not list it (or is not there).

    Raises:
        DataError: the file is broken, or the entry asks for something that is not done here.
    """
    entry = _read(folder).get(name)
    return None if entry is None else _Reader(name, folder / FILE).read(entry)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        listed = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=partial(_once, path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}", hint="fix the file at that place"
        ) from None
    except UnicodeDecodeError:
        raise DataError(f"`{path}` is not UTF-8 text", hint="save it as UTF-8") from None
    except (RecursionError, ValueError) as error:  # a number of more digits than Python reads
        raise DataError(f"`{path}` cannot be read: {first_line(error)}", hint="fix the file") from None
    if not isinstance(listed, dict):
        raise DataError(
            f"`{path}` must hold one object: names with an entry each", hint='{"mine": {"file_name": "a.json"}}'
        )
    return listed


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the file, each of whose keys counts: Python would keep the last of two equal ones.

    Raises:
        DataError: a key occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"`{path}` has `{twice}` twice in one object", hint="keep one of them, or rename one")
    return found


class _Reader:
    """Reads an entry; every refusal names the dataset and the file."""

    def __init__(self, name: str, place: Path) -> None:
        self.name = name
        self.place = place

    def refuse(self, problem: str, hint: str) -> DataError:
        return DataError(f"dataset `{self.name}` of `{self.place}` {problem}", hint=hint)

    def read(self, entry: Any) -> Entry:
        if not isinstance(entry, dict):
            raise self.refuse("must be an object", 'such as {"file_name": "a.json"}')
        self._check_keys(entry)
        formatting = entry.get("formatting") or "alpaca"
        if formatting not in _LISTS:
            raise self.refuse(f"has the formatting `{formatting}`", f"one of {', '.join(_LISTS)}")
        layout: dict[str, Any] = {"format": "messages" if formatting == "openai" else formatting}
        columns = self._names(entry, "columns", {**_COLUMNS, "messages": _LISTS[formatting]})
        tags = self._names(entry, "tags", _TAGS)
        if columns:
            layout["columns"] = columns
        if tags:
            layout["tags"] = tags
        return Entry(self.place.parent / entry["file_name"], layout, self._count(entry))

    def _check_keys(self, entry: dict[str, Any]) -> None:
        if entry.get("ranking"):
            raise self.refuse(
                "holds preference pairs (ranking)", "only supervised fine-tuning is done; take another dataset"
            )
        if not isinstance(entry.get("file_name"), str):
            for key, problem in _ELSEWHERE.items():
                if entry.get(key):
                    raise self.refuse(
                        f"{problem} ({key}: {entry[key]}); data is read from files",
                        "download it and write its file_name into the entry, or give the file itself",
                    )
            raise self.refuse("has no file_name", "name its file there")
        if entry.get("split") == "train":
            entry = {k: v for k, v in entry.items() if k != "split"}
        for key in ("subset", "split", "folder"):
            if entry.get(key):
                raise self.refuse(
                    f"asks for a part of a hub dataset ({key}: {entry[key]}), which a file does not have",
                    f"remove `{key}` and name the file of that part",
                )
        unknown = [k for k in entry if k not in _KEYS and k not in _ELSEWHERE]
        if unknown:
            log.warning("dataset `%s` of `%s`: without effect: %s", self.name, self.place, ", ".join(unknown))

    def _names(self, entry: dict[str, Any], block: str, known: dict[str, str]) -> dict[str, str]:
        given = entry.get(block) or {}
        if not isinstance(given, dict):
            raise self.refuse(f"has `{block}` that is not an object", 'such as {"prompt": "question"}')
        ours = {}
        for name, value in given.items():
            if name in _NO_COLUMNS and value:
                raise self.refuse(f"has the column `{name}`: {_NO_COLUMNS[name]}", "take a dataset of text")
            if name in _NO_COLUMNS:
                continue
            if name not in known:
                near = get_close_matches(name, known, n=1)
                raise self.refuse(
                    f"has unknown `{block}`: `{name}`",
                    f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}",
                )
            if value is not None and not isinstance(value, str):
                raise self.refuse(f"has `{block}.{name}` that is not text", "give the name that the file uses")
            ours[known[name]] = value or ""
        return ours

    def _count(self, entry: dict[str, Any]) -> int | None:
        count = entry.get("num_samples")
        if count is None:
            return None
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise self.refuse(f"has num_samples: {count}", "give a whole number from 1 on")
        return count
