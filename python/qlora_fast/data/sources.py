"""What a dataset's name stands for: files, a glob, a folder, standard input, an entry of dataset_info.json.

What a file holds (JSON, JSONL, Parquet, packed or not) is the core's to find out, by its first bytes.
"""

from __future__ import annotations

import atexit
import glob
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from qlora_fast.data import dataset_info
from qlora_fast.errors import DataError
from qlora_fast.hub import places

log = logging.getLogger(__name__)

EMBEDDED = ("identity", "general")
"""Datasets that come with the package (assets/NOTICE says from where)."""
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")
_PACKED = (".gz", ".zst")
_MOST_LOOKED_AT = 10_000
"""Files below a folder that are looked at for a hint."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset of a run: its name, its files, how they are laid out, how many rows are drawn from it.

    Attributes:
        shown: what reports call its file, if not by its path.
        num_samples: rows to draw at random (LLaMA-Factory's num_samples); None: all.
    """

    name: str
    files: tuple[str, ...]
    layout: dict[str, Any] = field(default_factory=dict)
    shown: str | None = None
    num_samples: int | None = None

    def options(self) -> list[dict[str, Any]]:
        """The files as the core takes them."""
        # A random draw is made from the whole dataset, so its first rows are no substitute.
        whole = {"max_samples": False} if self.num_samples is not None else {}
        named = {"name": self.shown} if self.shown is not None else {}
        return [{"path": f, "dataset": self.name, "layout": self.layout, **named, **whole} for f in self.files]


def resolve(names: Sequence[str], folder: str = ".", *, outside: bool = False) -> list[Dataset]:
    """The datasets that these names stand for, in their order; a name that is given twice gets the suffix #2.

    Args:
        outside: read files outside the folder if its dataset_info.json names them. A dataset folder comes from anywhere;
            what it names may be anything that the user can read.

    Raises:
        DataError: a name stands for nothing, or for something that is not read.
    """
    found: list[Dataset] = []
    seen: dict[str, int] = {}
    files: set[Path] = set()
    for name in names:
        dataset = _resolve_one(name, Path(folder), outside)
        count = seen[name] = seen.get(name, 0) + 1
        if count > 1:
            dataset = Dataset(f"{name}#{count}", dataset.files, dataset.layout, dataset.shown, dataset.num_samples)
        found.append(dataset)
        for file in map(Path, dataset.files):
            _check_name(file)
            if file.resolve() in files:
                log.warning("`%s` is given twice: each of its rows counts twice", file)
            files.add(file.resolve())
    return found


def _check_name(file: Path) -> None:
    """The manifest stores names as text."""
    shown = os.fsencode(file).decode("utf-8", errors="backslashreplace")
    if shown != str(file):
        raise DataError(f"the name of `{shown}` is not UTF-8", hint="rename the file")


def _resolve_one(name: str, folder: Path, outside: bool) -> Dataset:
    if name == "-":
        return Dataset("-", (_standard_input(),), shown="-")
    entry = dataset_info.find(name, folder)
    if entry is not None:
        if not os.path.exists(entry.path):  # false for a name that no file can have; Path.exists raises
            raise DataError(
                f"dataset `{name}` of `{folder / dataset_info.FILE}` has no file `{entry.path}`",
                hint=_beside(entry.path),
            )
        if not outside:
            _refuse_outside(name, entry.path, folder)
        return Dataset(name, _files(entry.path), entry.layout, num_samples=entry.num_samples)
    path = folder / name
    if os.path.exists(path):
        if path.is_file() or path.is_dir():
            return Dataset(name, _files(path))
        raise DataError(
            f"`{path}` is a pipe or a device, not a file",
            hint="give - and pipe the data into standard input, or a file",
        )
    if glob.has_magic(name):
        found = (Path(f) for f in glob.glob(str(path), recursive=True))
        matches = sorted(str(f) for f in found if f.is_file() and f.name != dataset_info.FILE)
        if not matches:
            raise DataError(f"no file matches `{path}`", hint=_beside(path))
        return Dataset(name, tuple(matches))
    if name in EMBEDDED:
        return Dataset(name, (str(Path(__file__).parents[1] / "assets" / f"{name}.json"),))
    raise _nothing(name, folder)


def _refuse_outside(name: str, path: Path, folder: Path) -> None:
    """Refuse a file that dataset_info.json names outside its folder; where links lead counts.

    Raises:
        DataError: it, or a file of the folder that is named, lies outside.
    """
    inside = os.path.realpath(folder)
    for file in (path, *(path.iterdir() if path.is_dir() else ())):
        real = Path(os.path.realpath(file))  # a link that leads to itself lies where it lies; Path.resolve raises
        if not real.is_relative_to(inside):
            raise DataError(
                f"dataset `{name}` of `{folder / dataset_info.FILE}` names a file outside `{folder}`: `{real}`",
                hint="if you know that file and want it read, set dataset_outside=true",
            )


def _files(path: Path) -> tuple[str, ...]:
    """A file, or the data files of a folder in the order of their names; what else lies there is named."""
    if not path.is_dir():
        return (str(path),)
    if kind := places.kind_of(path):
        raise DataError(f"`{path}` is {kind}, not a folder of data", hint="give the data file or folder itself")
    _refuse_saved_by_datasets(path)
    # Hidden files are those of an editor, a notebook or another system: copies of data that would count twice.
    entries = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    files = [p for p in entries if p.is_file() and _is_data(p)]
    if not files:
        below = next((p for p in islice(path.glob("**/*"), _MOST_LOOKED_AT) if _is_data(p)), None)
        suffixes = f"files there must end in {', '.join(_SUFFIXES)}, or these and .gz or .zst"
        hint = suffixes if below is None else f"its sub-folders have some: '{path}/**/*{below.suffix}' names them all"
        raise DataError(f"no data file in the folder `{path}`", hint=hint)
    others = [p.name for p in entries if p not in files]
    if others:
        log.warning("not read in `%s`: %s", path, ", ".join(others[:8]) + (", …" if len(others) > 8 else ""))
    return tuple(map(str, files))


def _refuse_saved_by_datasets(path: Path) -> None:
    """Refuse a folder that the library `datasets` wrote: its JSON files are no data.

    Raises:
        DataError: it is one.
    """
    several, one = (path / "dataset_dict.json").is_file(), (path / "state.json").is_file()
    if several or (one and any(path.glob("*.arrow"))):
        part = '["train"]' if several else ""
        raise DataError(
            f"`{path}` was written by `save_to_disk` of datasets, which is not read",
            hint=f'write it as Parquet: datasets.load_from_disk("{path}"){part}.to_parquet("{path.name}.parquet")',
        )


def _is_data(path: Path) -> bool:
    stem = path.with_suffix("") if path.suffix in _PACKED else path
    return stem.suffix in _SUFFIXES and path.name != dataset_info.FILE


@cache
def _standard_input() -> str:
    """All of standard input, in a file that is removed at the end: it can be read only once, and is hashed first."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DataError(
            "several processes cannot share one standard input",
            hint="write the data to a file and give its name",
        )
    if sys.stdin is None or sys.stdin.isatty():
        raise DataError(
            "there is nothing on standard input", hint="pipe data into it: `zcat data.json.gz | qlora-fast prep -`"
        )
    with tempfile.NamedTemporaryFile(prefix="qlora-fast-stdin-", delete=False) as file:
        atexit.register(Path(file.name).unlink, missing_ok=True)
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    return file.name


def _nothing(name: str, folder: Path) -> DataError:
    path = folder / name
    listed = dataset_info.names(folder)
    near = get_close_matches(name, [*listed, *EMBEDDED], n=1)
    if near:
        return DataError(f"no data file or dataset `{name}` in `{folder}`", hint=f"did you mean `{near[0]}`?")
    if listed and not path.suffix:
        shown = ", ".join(listed[:8]) + (", …" if len(listed) > 8 else "")
        return DataError(f"no dataset `{name}` in `{folder / dataset_info.FILE}`", hint=f"it lists {shown}")
    if not path.suffix and name in dataset_info.names(folder / "data"):
        return DataError(
            f"no data file `{path}`", hint=f"`{name}` is listed in `{folder / 'data'}`: dataset_dir={folder / 'data'}"
        )
    return DataError(f"no data file `{path}`", hint=_beside(path))


def _beside(path: Path) -> str:
    parent = path.parent
    near = sorted(p.name for p in parent.iterdir() if _is_data(p)) if os.path.isdir(parent) else []
    if not near:
        return f"embedded datasets: {', '.join(EMBEDDED)}"
    close = get_close_matches(path.name, near, n=1)
    return f"did you mean `{close[0]}`?" if close else f"data files there: {', '.join(near[:6])}"
