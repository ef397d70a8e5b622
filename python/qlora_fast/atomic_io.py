"""Files that survive a crash: a folder or file is complete, or it does not exist.

Everything is written under another name beside its place, flushed to disk, and only then renamed; the rename is flushed as
well. ``rust/core/src/durable.rs`` does the same for prepared data. Whatever cannot be written is a
:class:`~qlora_fast.errors.StorageError` that names the path, the space and the fix.

Temporary names end in ``.tmp-PID@HOST`` (being written), ``.old-PID@HOST`` (being replaced) or ``.gone-PID@HOST`` (being
removed), so that those of a process that no longer runs can be distinguished from those of one that does.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qlora_fast.errors import StorageError

if TYPE_CHECKING:
    from torch import Tensor

Writer = Callable[[Path, Path], None]
_TEMPORARY = re.compile(r"\.(?P<target>.+)\.(?P<kind>tmp|old|gone)-(?P<pid>\d+)(?:@(?P<host>.+))?")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CANNOT_WRITE = (*_FULL, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOTDIR)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into; it appears as ``target`` when the block ends without an error.

    An existing ``target`` is replaced: it is moved aside first and removed last, so that one of the two always exists.
    What killed processes left beside it is removed.

    Raises:
        StorageError: it cannot be written.
    """
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        temporary = _beside(target, "tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            # safetensors creates files that only their owner may read; the folder's own bits are what the umask grants.
            granted = temporary.stat().st_mode & 0o666
            for path in sorted(temporary.rglob("*")):
                if path.is_file():
                    path.chmod(path.stat().st_mode | granted)
                    _flush(path)
            _flush(temporary)
            aside = _beside(target, "old")
            if target.exists():
                target.rename(aside)
            temporary.rename(target)
            _flush(target.parent)
            shutil.rmtree(aside, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A path to write to; it becomes ``target``, in place of what was there, when the block ends without an error.

    Raises:
        StorageError: it cannot be written.
    """
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(target, "tmp")
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(target)
            _flush(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file so that readers see the old content or the new, never a part.

    Raises:
        StorageError: it cannot be written.
    """
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """The same for a document: indented, and numbers that are not finite are null.

    Raises:
        StorageError: it cannot be written.
    """
    write_text(path, json_text(value, indent=2))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON that every reader takes: NaN and infinity, which JSON does not have, become null."""
    return json.dumps(finite(value), ensure_ascii=False, indent=indent, allow_nan=False)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file.

    Raises:
        StorageError: it cannot be written, whatever safetensors calls the error.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    needed = sum(tensor.nbytes for tensor in tensors.values())
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except (SafetensorError, OSError) as error:
        raise storage_error(path, error, needed) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def free_space(path: Path) -> int | None:
    """Bytes that can be written where ``path`` is or will be, or None where the file system does not say."""
    place = next((p for p in (path, *path.absolute().parents) if p.exists()), None)
    try:
        return None if place is None else shutil.disk_usage(place).free
    except OSError:
        return None


def size_text(count: float) -> str:
    """``1.5 GB``, ``320 kB``: a number of bytes for a message, in powers of ten as disks are sold."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"


def storage_error(path: Path, error: BaseException, needed: int | None = None) -> StorageError:
    """What to say of a file that could not be written."""
    reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    number, free = getattr(error, "errno", None), free_space(path.parent)
    space = [f"{size_text(needed)} needed"] if needed is not None else []
    space += [f"{size_text(free)} free"] if free is not None else []
    hint = "free some space there, keep fewer checkpoints (save_total_limit), or give a folder on another disk"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
        hint = "give a folder that you may write to"
    elif number in (errno.EMFILE, errno.ENFILE):
        hint = "raise the limit of open files: ulimit -n"
    return StorageError(
        f"cannot write `{_final(path)}`: {reason}" + (f" ({', '.join(space)})" if space else ""), hint=hint
    )


def recover(folder: Path) -> None:
    """Remove what processes that were killed while they wrote into ``folder`` left there.

    What was moved aside comes back if its successor never arrived; what never became complete is removed. To be called
    when no other process writes there.
    """
    _clear(folder, lambda found: True)


def sweep(folder: Path) -> None:
    """The same where other processes may be writing: only what belongs to processes of this host that no longer run."""
    _clear(folder, lambda found: found["host"] == _host() and not _runs(int(found["pid"])))


def is_temporary(path: Path) -> bool:
    """Whether a path is one that this module writes to before it renames it."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_folder(path: Path) -> None:
    """Remove a folder so that a half-removed one is never taken for a complete one."""
    aside = _beside(path, "gone")
    with _explained(path):
        path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _clear(folder: Path, ours: Callable[[re.Match[str]], bool]) -> None:
    with suppress(OSError):
        found = [(p, m) for p in folder.iterdir() if (m := _TEMPORARY.fullmatch(p.name)) and ours(m)]
        for path, match in found:
            target = folder / match["target"]
            if match["kind"] == "old" and not target.exists():
                path.rename(target)
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _final(path: Path) -> Path:
    """A path under its final name, for messages."""
    names = [match["target"] if (match := _TEMPORARY.fullmatch(name)) else name for name in path.parts]
    return Path(*names)


def _beside(target: Path, kind: str) -> Path:
    return target.parent / f".{target.name}.{kind}-{os.getpid()}@{_host()}"


def _host() -> str:
    return re.sub(r"[^\w.-]", "_", platform.node()) or "localhost"


def _runs(pid: int) -> bool:
    if os.name == "nt":
        return True  # signal 0 is Ctrl-C there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Inside, what the file system refuses to write is a :class:`StorageError`; a file that cannot be read is not."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        raise storage_error(target, error) from error


def finite(value: Any) -> Any:
    """A value as JSON can hold it: NaN and infinity inside it become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
