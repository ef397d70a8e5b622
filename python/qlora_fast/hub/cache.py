"""The user's cache folder, and the hashes of large files that are remembered in it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from qlora_fast import atomic_io
from qlora_fast.errors import StorageError

HASHES = "hashes-2"
"""The folder of them in the cache folder; another number where an entry means something else."""
_SETTLED_S = 2.0
"""A file that changed this recently may change again within the resolution of its time: its hash is not remembered."""
_SMALL = 1 << 20
"""Bytes of a file that is hashed again faster than its hash is looked up."""
_HASHED_AT_ONCE = 8
_WORTH_THREADS = 32 << 20
"""Bytes from which on files are hashed at once."""

File = TypeVar("File")
Result = TypeVar("Result")


def of_each(look: Callable[[File], Result], files: Sequence[File], total: int) -> Iterator[Result]:
    """What a function that reads files gives for each, in order; files of many bytes are read at once.

    Small ones are not: where memory has run out, Python waits forever for a thread that could not begin.

    Args:
        total: bytes of all files.
    """
    if total < _WORTH_THREADS:
        yield from map(look, files)
        return
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as pool:
        yield from pool.map(look, files)


def cache_dir() -> Path:
    """Where converted models are kept: ``$XDG_CACHE_HOME/qlora-fast`` or ``~/.cache/qlora-fast``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "qlora-fast"


def remembered_sha256(path: Path) -> str:
    """SHA-256 of a file, from the cache folder where the file has not changed since it was hashed.

    A file counts as unchanged while its device, inode, size and times are the same. The time of the last status change is
    among them: a program can set a file's modification time back, but not that one.
    """
    whole = os.path.realpath(path)
    before = path.stat()
    if before.st_size < _SMALL:
        return atomic_io.sha256_of(path)
    known = cache_dir() / HASHES / hashlib.sha256(whole.encode(errors="replace")).hexdigest()[:24]
    key = _state(before)
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(known.read_text(encoding="utf-8"))
        if stored["key"] == key and len(stored["sha256"]) == 64:
            return str(stored["sha256"])
    # Decided before the first byte is read: the reading may take longer than a file needs to settle.
    settled = time.time() - max(before.st_mtime, before.st_ctime) > _SETTLED_S
    digest = atomic_io.sha256_of(path)
    # A cache folder that cannot be written costs time, nothing else.
    with suppress(OSError, StorageError, UnicodeError):
        if settled and _state(path.stat()) == key:
            atomic_io.write_json(known, {"path": whole, "key": key, "sha256": digest})
    return digest


def _state(stat: os.stat_result) -> list[int]:
    """What changes with the content of a file."""
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
