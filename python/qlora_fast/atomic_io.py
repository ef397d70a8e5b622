"""Writes files and folders that survive a crash: each is complete, or absent.

Everything is written under a temporary name beside its place, flushed to disk, and then renamed; the rename is flushed as
well. The Rust core's ``durable`` module does the same for prepared data.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Writer = Callable[[Path, Path], None]


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into; it appears as ``target`` when the block ends without an error.

    An earlier ``target`` is replaced: it is moved aside first and removed last, so that one of the two always exists.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.tmp-{os.getpid()}"
    remove_abandoned(target)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    lock = contextlib.ExitStack()
    with contextlib.suppress(OSError):
        lock.enter_context(_locked(temporary))
    try:
        yield temporary
        # safetensors creates files that only their owner may read; the folder's own bits are what the umask grants.
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
        lock.close()


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
    """Clean up after a process that was killed while it wrote into ``folder``.

    What was moved aside is restored if its successor was never completed; incomplete files and folders are removed. To be
    called when no other process writes there.
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


def remove_abandoned(target: Path) -> None:
    """Remove what killed processes left beside ``target`` while they wrote it. What a running process writes is locked.

    Where the file system has no locks, or cannot lock folders, nothing is removed.
    """
    if fcntl is None or not target.parent.is_dir():
        return
    prefix = f".{target.name}.tmp-"
    for left in [path for path in target.parent.iterdir() if path.name.startswith(prefix) and path.is_dir()]:
        with contextlib.suppress(OSError), _locked(left):
            shutil.rmtree(left, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder so that a partly removed one is never taken for a complete one."""
    aside = path.parent / f".{path.name}.gone-{os.getpid()}"
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which ends with the process at the latest.

    Raises:
        OSError: another process holds it, or it cannot be locked.
    """
    if fcntl is None:
        raise OSError("no locks on this system")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
