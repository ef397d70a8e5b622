"""The one place that writes what must survive a crash: a folder or file is whole, or it is not there.

Everything grows under another name beside its place, is flushed to disk, and only then renamed; the rename is flushed
as well. ``rust/core/src/durable.rs`` does the same for prepared data.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Writer = Callable[[Path, Path], None]


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into; it appears as ``target`` when the block ends without an error.

    An earlier ``target`` is replaced: it is moved aside first and removed last, so that one of the two always exists.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.tmp-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        # safetensors makes files that nobody but their owner may read; the folder's own bits are what the umask grants.
        granted = temporary.stat().st_mode & 0o666
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                path.chmod(path.stat().st_mode | granted)
                _flush(path)
        _flush(temporary)
        aside = target.parent / f".{target.name}.old-{os.getpid()}"
        if target.exists():
            target.rename(aside)
        temporary.rename(target)
        _flush(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A path to write to; it becomes ``target``, in place of what was there, when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.tmp-{os.getpid()}"
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file so that readers see the old content or the new, never a part."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def recover(folder: Path) -> None:
    """Clear up after a process that was killed while it wrote into ``folder``.

    What was moved aside comes back if its successor never arrived; what never became whole goes. To be called when no
    other process writes there.
    """
    for aside in folder.glob(".*.old-*"):
        target = folder / aside.name.removeprefix(".").rpartition(".old-")[0]
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(target)
    for left in [*folder.glob(".*.tmp-*"), *folder.glob(".*.gone-*")]:
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder so that a half-removed one is never taken for a whole one."""
    aside = path.parent / f".{path.name}.gone-{os.getpid()}"
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
