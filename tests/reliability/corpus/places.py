"""Paths: links, pipes, devices, folders, names with control characters, and what dataset_info.json may point to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reliability.corpus.entry import ANSWERS, Entry, Make, array, lines


def _place(name: str, expect: str, make: Make, answers: tuple[str, ...] | None = None) -> Entry:
    return Entry(name, b"", expect, answers=answers, make=make)


def _named(path: str | bytes, content: bytes | None = None) -> Make:
    def make(folder: Path) -> list[str]:
        if content is not None:
            with open(os.path.join(os.fsencode(folder), os.fsencode(path)), "wb") as file:
                file.write(content)
        return [os.fsdecode(path)]

    return make


def _linked(*links: tuple[str, str], content: bytes | None = None) -> Make:
    """Links by name and target; ``content``: of the file that the first one leads to."""

    def make(folder: Path) -> list[str]:
        if content is not None:
            (folder / links[0][1]).write_bytes(content)
        for name, target in links:
            (folder / name).symlink_to(target)
        return [links[0][0]]

    return make


def _pipe(folder: Path) -> list[str]:
    os.mkfifo(folder / "f.json")
    return ["f.json"]


def _folder(name: str, fill: Callable[[Path], object] = lambda _: None) -> Make:
    def make(folder: Path) -> list[str]:
        (folder / name).mkdir()
        fill(folder / name)
        return [name]

    return make


def _mixed(folder: Path) -> None:
    """Data beside what is none: the data is taken, the rest is left alone or refused, nothing is waited for."""
    (folder / "a.json").write_bytes(array())
    (folder / "b.jsonl").write_bytes(lines())
    (folder / "c.txt").write_text("no")
    (folder / "sub").mkdir()
    (folder / ".hidden.json").write_bytes(array())


def _with_pipe(folder: Path) -> None:
    (folder / "a.json").write_bytes(array())
    os.mkfifo(folder / "f.json")


def _no_rights(folder: Path) -> list[str]:
    (folder / "g.json").write_bytes(array())
    (folder / "g.json").chmod(0)
    return ["g.json"]


def _twice(folder: Path) -> list[str]:
    (folder / "g.json").write_bytes(array())
    return ["g.json", "./g.json"]


def _info(
    entry: Any = None, text: str | bytes | None = None, prepare: Callable[[Path], object] = lambda _: None
) -> Make:
    """A dataset ``mine`` of a dataset_info.json in ``data``; ``secret.json`` lies outside."""

    def make(folder: Path) -> list[str]:
        data = folder / "data"
        data.mkdir()
        (folder / "secret.json").write_bytes(array())
        (data / "g.json").write_bytes(array())
        prepare(data)
        stored = json.dumps({"mine": entry(folder) if callable(entry) else entry}) if text is None else text
        (data / "dataset_info.json").write_bytes(stored.encode() if isinstance(stored, str) else stored)
        return ["dataset=mine", "dataset_dir=data"]

    return make


ENTRIES = (
    _place("a link", "taken", _linked(("a.json", "g.json"), content=array()), ANSWERS),
    _place("a loop of links", "refused", _linked(("a.json", "b.json"), ("b.json", "a.json"))),
    _place("a dead link", "refused", _linked(("a.json", "nowhere"))),
    _place("a link to a device", "refused", _linked(("a.json", "/dev/zero"))),
    _place("a pipe", "refused", _pipe),
    _place("a folder named like a file", "refused", _folder("x.json")),
    _place("an empty folder", "refused", _folder("x")),
    _place("a folder of several kinds", "taken", _folder("x", _mixed), ANSWERS * 2),
    _place("a folder with a pipe in it", "taken", _folder("x", _with_pipe), ANSWERS),
    *(_place(name, "refused", _named(name)) for name in ("/dev/zero", "/dev/null", "/proc/self/mem", "/proc/self/maps", "/sys", "/")),
    _place("a file that may not be read", "taken|refused", _no_rights),  # root may
    _place("the same file twice", "taken", _twice, ANSWERS * 2),
    _place("a name of 300 characters", "refused", _named("x" * 300 + ".json")),
    _place("a name with NUL", "refused", _named("a%00.json")),
    _place("a pattern that finds nothing", "refused", _named("*.json")),
    _place("a name that is not there", "refused", _named("nothing.json")),
    _place("a name with a line end", "refused", _named("a\nerror: fake.json", b"[")),
    _place("a name with an escape sequence", "refused", _named("a\x1b[31mred.json", b"[")),
    _place("a name that is not UTF-8", "refused", _named(b"caf\xe9.json", array())),
    _place("a name with brackets", "taken", _named("a[1].json", array()), ANSWERS),
    _place("a name with blanks", "taken", _named(" a b .json", array()), ANSWERS),
    _place("dataset_info", "taken", _info({"file_name": "g.json"}), ANSWERS),
    _place("dataset_info, outside", "refused", _info({"file_name": "../secret.json"})),
    _place("dataset_info, absolute", "refused", _info(lambda f: {"file_name": str((f / "secret.json").resolve())})),
    _place("dataset_info, a link outside", "refused", _info({"file_name": "l.json"}, prepare=lambda d: (d / "l.json").symlink_to("../secret.json"))),
    _place("dataset_info, a pipe", "refused", _info({"file_name": "f.json"}, prepare=lambda d: os.mkfifo(d / "f.json"))),
    _place("dataset_info, a device", "refused", _info({"file_name": "/dev/zero"})),
    _place("dataset_info, a script beside a file", "taken", _info({"script_url": "evil.py", "file_name": "g.json"})),
    _place("dataset_info, a script", "refused", _info({"script_url": "evil.py"})),
    _place("dataset_info, unknown columns", "refused", _info({"file_name": "g.json", "columns": {"prompt": "x", "response": "y"}})),
    _place("dataset_info, columns of numbers", "refused", _info({"file_name": "g.json", "columns": {"prompt": 5}})),
    _place("dataset_info, a number as name", "refused", _info({"file_name": 5})),
    _place("dataset_info, an entry that is a list", "refused", _info([1])),
    _place("dataset_info, a list", "refused", _info(text="[1]")),
    _place("dataset_info, a comma too many", "refused", _info(text='{"mine": {"file_name": "g.json",}}')),
    _place("dataset_info, deep", "refused", _info(text='{"mine":' + "[" * 200_000 + "]" * 200_000 + "}")),
    _place("dataset_info, empty", "refused", _info(text="")),
    _place("dataset_info, not UTF-8", "refused", _info(text=b'{"mine": {"file_name": "g.json\xff"}}')),
)  # fmt: skip
