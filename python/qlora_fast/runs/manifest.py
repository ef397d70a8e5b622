"""``MANIFEST.json``: size and SHA-256 of each file of a folder, so that what was written is verified when it is read again.

Checkpoints, ``best/``, ``last/``, the final adapter and merged models have one. It is written last and holds its own hash,
so that no bit of it can change unnoticed either. No torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from qlora_fast import atomic_io
from qlora_fast.errors import ArtifactError
from qlora_fast.runs.layout import MANIFEST

FORMAT_VERSION = 1
Files = dict[str, dict[str, Any]]


def write(folder: Path, about: Mapping[str, Any] | None = None) -> None:
    """List every file of a folder as it is now.

    Args:
        about: what else is to be known of the folder, for example the optimizer step that its adapter is of.
    """
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": atomic_io.sha256_of(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST
    }
    (folder / MANIFEST).write_text(_text(files, about), encoding="utf-8")


def damage(folder: Path, required: Collection[str] = ()) -> str | None:
    """What is wrong with a folder, in words, or None where every listed file is complete.

    Args:
        required: files that must be listed.
    """
    try:
        files = _read(folder)["files"]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, RecursionError) as error:
        return f"{MANIFEST} is unreadable: {error}"
    for name in required:
        if name not in files:
            return f"{MANIFEST} does not list {name}"
    return next((problem for name, entry in files.items() if (problem := _damage_of(folder / name, entry))), None)


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


def verify(folder: Path, what: str) -> None:
    """Refuse a folder with a manifest that its files do not match. One without a manifest is not this program's: it passes.

    Args:
        what: what the folder holds, for the message: ``adapter``, ``checkpoint``, ``merged model``.

    Raises:
        ArtifactError: it is damaged.
    """
    if (folder / MANIFEST).exists() and (problem := damage(folder)):
        raise ArtifactError(
            f"the {what} in `{folder}` is damaged: {problem}",
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


def _damage_of(file: Path, entry: dict[str, Any]) -> str | None:
    if not file.is_file():
        return f"{file.name} is missing"
    size = file.stat().st_size
    if size != entry["bytes"]:
        return f"{file.name} has {size} bytes instead of {entry['bytes']}"
    if atomic_io.sha256_of(file) != entry["sha256"]:
        return f"{file.name} has other content"
    return None


def _text(files: Files, about: Mapping[str, Any] | None) -> str:
    body = json.dumps(files, sort_keys=True)
    document: dict[str, Any] = {"format_version": FORMAT_VERSION, "files": files}
    if about is not None:
        body += json.dumps(about, sort_keys=True)
        document["about"] = about
    document["sha256"] = hashlib.sha256(body.encode()).hexdigest()
    return json.dumps(document, indent=2, sort_keys=True)
