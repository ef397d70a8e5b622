"""``MANIFEST.json``: size and SHA-256 of each file of a folder, so that what was written is verified when it is read again.

Checkpoints, ``best/``, ``last/``, the final adapter, merged and converted models have one. It is written last and holds its own hash,
so that no bit of it can change unnoticed either. No torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qlora_fast import atomic_io
from qlora_fast.errors import ArtifactError
from qlora_fast.hub.cache import of_each, remembered_sha256

log = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"
FORMAT_VERSION = 1
Files = dict[str, dict[str, Any]]
Verify = Literal["full", "quick", "off"]
"""What is verified: every byte, the names and sizes of the files, or nothing. A setting, for prepared data as well."""
FOR_PEOPLE = ("README.md", "Modelfile")
"""Listed, and meant to be edited: no command reads them, so that another content is no damage."""
_LARGE = 2 * 10**9


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that is not as it was written.

    Attributes:
        file: its name. what: what is wrong, in words that follow the name.
    """

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file} {self.what}"


def write(folder: Path, about: Mapping[str, Any] | None = None) -> None:
    """List every file of a folder as it is now.

    Args:
        about: what else is to be known of the folder, for example the optimizer step that its adapter is of.
    """
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != MANIFEST]
    hashes = of_each(atomic_io.sha256_of, paths, sum(path.stat().st_size for path in paths))
    files = {p.name: {"bytes": p.stat().st_size, "sha256": h} for p, h in zip(paths, hashes, strict=True)}
    (folder / MANIFEST).write_text(_text(files, about), encoding="utf-8")


def problems(
    folder: Path,
    level: Verify = "full",
    *,
    remembered: bool = False,
    on_bytes: Callable[[int], object] = lambda _: None,
) -> list[Problem]:
    """Every file that a manifest lists and that is not as it was written, in the order of the names.

    Args:
        level: what is verified.
        remembered: take the hash of a large file from the cache folder where the file has not changed since.
        on_bytes: called with the listed bytes of each file when it has been verified, in the order of the names.
    """
    if level == "off":
        return []
    try:
        files = _read(folder)["files"]
    except FileNotFoundError:
        return [Problem(MANIFEST, "is missing")]
    except (OSError, ValueError, RecursionError) as error:
        return [Problem(MANIFEST, f"is unreadable: {error}")]
    sha256 = remembered_sha256 if remembered else atomic_io.sha256_of

    def look(name: str) -> str | None:
        return _damage_of(folder / name, files[name], None if level == "quick" else sha256)

    found = []
    there = sum((folder / name).stat().st_size for name in files if (folder / name).is_file())
    for name, what in zip(files, of_each(look, list(files), there), strict=True):
        on_bytes(files[name]["bytes"])
        if what:
            found.append(Problem(name, what))
    return found


def unlisted(folder: Path) -> list[str]:
    """Names of the files beside a manifest that it does not list; [] where it cannot be read."""
    try:
        known = listed(folder)
    except (OSError, ValueError, RecursionError):
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in known)


def damage(folder: Path, required: Collection[str] = ()) -> str | None:
    """What is wrong with a folder, in words, or None where every listed file is complete.

    Args:
        required: files that must be listed.
    """
    try:
        names = listed(folder)
    except (OSError, ValueError, RecursionError):
        names = [*required]
    missing = [name for name in required if name not in names]
    if missing:
        return f"{MANIFEST} does not list {missing[0]}"
    return next(map(str, problems(folder)), None)


def about(folder: Path) -> dict[str, Any]:
    """What was stored as ``about``; {} where there is none or no readable manifest."""
    try:
        stored: dict[str, Any] = _read(folder).get("about", {})
    except (OSError, ValueError, RecursionError):
        return {}
    return stored


def listed(folder: Path) -> list[str]:
    """Names of the files that a manifest lists, with the manifest itself.

    Raises:
        OSError, ValueError: there is no readable manifest.
    """
    return [*_read(folder)["files"], MANIFEST]


def listed_bytes(folder: Path) -> int:
    """Bytes of the files that a manifest lists; 0 where it cannot be read."""
    try:
        return sum(entry["bytes"] for entry in _read(folder)["files"].values())
    except (OSError, ValueError, RecursionError):
        return 0


def verify(folder: Path, what: str, level: Verify = "full") -> None:
    """Refuse a folder with a manifest that its files do not match. One without a manifest is not this program's: it passes.

    The hash of a large file is remembered until the file changes.

    Args:
        what: what the folder holds, for the message: ``adapter``, ``checkpoint``, ``model``.
        level: what is verified.

    Raises:
        ArtifactError: it is damaged.
    """
    if level == "off" or not (folder / MANIFEST).exists():
        return
    if level == "full" and sum(p.stat().st_size for p in folder.iterdir() if p.is_file()) > _LARGE:
        log.info("verifying `%s` (remembered until a file changes)", folder)
    found = [problem for problem in problems(folder, level, remembered=True) if problem.file not in FOR_PEOPLE]
    if found:
        more = f" (and {len(found) - 1} more files)" if len(found) > 1 else ""
        raise ArtifactError(
            f"the {what} in `{folder}` is damaged: {found[0]}{more}",
            hint=f"copy the folder again from where it is complete; or delete {MANIFEST} if the change is your own",
        )


def _read(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, its shape and its own hash checked."""
    text = (folder / MANIFEST).read_text(encoding="utf-8")
    stored: Any = json.loads(text)
    files = stored.get("files") if isinstance(stored, dict) else None
    if not isinstance(files, dict) or not all(_is_entry(name, entry) for name, entry in files.items()):
        raise ValueError("it is not a list of files")
    known = stored.get("about")
    if not (known is None or isinstance(known, dict)) or text != _text(files, known):
        raise ValueError("its content does not match its own hash")
    return {**stored}


def _is_entry(name: str, entry: object) -> bool:
    if Path(name).name != name or not isinstance(entry, dict):
        return False
    return isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)


def _damage_of(file: Path, entry: dict[str, Any], sha256: Callable[[Path], str] | None) -> str | None:
    if not file.is_file():
        return "is missing" if not file.exists() else "is not a file"
    try:
        size = file.stat().st_size
        if size != entry["bytes"]:
            return f"has {size} bytes instead of {entry['bytes']}"
        return "has other content" if sha256 is not None and sha256(file) != entry["sha256"] else None
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _text(files: Files, about: Mapping[str, Any] | None) -> str:
    body = json.dumps(files, sort_keys=True)
    document: dict[str, Any] = {"format_version": FORMAT_VERSION, "files": files}
    if about is not None:
        body += json.dumps(about, sort_keys=True)
        document["about"] = about
    document["sha256"] = hashlib.sha256(body.encode()).hexdigest()
    return json.dumps(document, indent=2, sort_keys=True)
