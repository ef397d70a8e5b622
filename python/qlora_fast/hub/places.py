"""What lies at a place that a user named, and the error for a name with nothing that fits.

Every command asks here, so that a wrong name has one message: a mistyped path is never looked for on the Hub, which takes
half a minute without a network.
"""

from __future__ import annotations

import os
import re
import shlex
from difflib import get_close_matches
from pathlib import Path

from qlora_fast.errors import ArtifactError
from qlora_fast.hub.untrusted import ADAPTER_CONFIG, MODEL_CONFIG

RUN = "run.json"
"""Marks a folder as a run of this program."""
PREPARED, _CHECKSUMS = "manifest.json", "checksums.json"
_HUB_NAME = re.compile(r"(?:\w(?:[\w.-]*\w)?/)?\w(?:[\w.-]{0,94}\w)?", re.ASCII)
_SUBJECT = "give a run, an adapter's folder, or a base model"


def kind_of(folder: Path) -> str | None:
    """What a folder holds, in words; None for any other folder."""
    if (folder / RUN).is_file():
        return "a run"
    if (folder / ADAPTER_CONFIG).is_file():
        return "an adapter"
    if (folder / PREPARED).is_file() and (folder / _CHECKSUMS).is_file():
        return "prepared data"
    if (folder / MODEL_CONFIG).is_file() and any(folder.glob("*.safetensors")):
        return "a model"
    return None


def is_path(name: str) -> bool:
    """Whether a name can only be a path: a name on the Hub has other characters and at most one slash."""
    path = Path(name)
    hub = _HUB_NAME.fullmatch(name) is not None and "--" not in name and ".." not in name
    return bool(name) and (not hub or path.suffix == ".gguf")


def refuse_path(name: str, *, of_file: str | None = None) -> None:
    """Refuse a name of no folder that cannot be the name of a model on the Hub either.

    Args:
        of_file: the hint if it is another file.

    Raises:
        ArtifactError: there is no such folder.
    """
    path = Path(name)
    if path.suffix == ".gguf" and path.is_file():
        return
    # `owner/name` may be either, unless there are runs in that folder, or it is one.
    among_runs = len(path.parts) == 2 and (
        (path.parent / RUN).is_file() or any((p / RUN).is_file() for p in _beside(path))
    )
    if is_path(name) or os.path.lexists(name) or among_runs:
        raise nothing_at(name, of_file=of_file)


def nothing_at(name: str, *, of_file: str | None = None) -> ArtifactError:
    """The error for a name of no folder: what is there instead, or what is near.

    Args:
        of_file: the hint if it is a file.
    """
    path = Path(name)
    if path.exists():
        its_folder = f"give its folder: `{path.parent}`" if kind_of(path.parent) else None
        return ArtifactError(f"`{name}` is a file", hint=of_file or its_folder or _SUBJECT)
    if path.is_symlink():
        return ArtifactError(f"`{name}` is a link to `{path.readlink()}`, which is not there")
    message = f"no {'model file' if path.suffix == '.gguf' else 'folder'} `{name}`"
    above = next((p for p in reversed(path.parents) if not p.is_dir()), None)
    if above is not None:
        return ArtifactError(message, hint=f"there is no folder `{above}` either")
    there = sorted(p.name for p in _beside(path) if not p.name.startswith("."))
    listed = f"folders there: {', '.join(there[:6])}" if there else "no folder is there"
    return ArtifactError(message, hint=near(name) or listed)


def near(name: str) -> str | None:
    """The hint that names a folder or model file of almost this name; None if none is there."""
    path = Path(name)
    found = get_close_matches(path.name, [p.name for p in _beside(path)], n=1)
    return f"did you mean `{path.with_name(found[0])}`?" if found else None


def inside(folder: Path) -> list[str]:
    """The folders below a folder that hold something of use, as a message names them."""
    return [f"`{path}`" for path in sorted(folder.iterdir()) if path.is_dir() and kind_of(path)]


def no_model(folder: Path) -> ArtifactError:
    """The error for a folder without a model: what it is instead, or the models in it."""
    kind = kind_of(folder)
    if kind in ("a run", "an adapter"):
        return ArtifactError(
            f"`{folder}` is {kind}, not a model",
            hint=f"name its base model; adapter_name_or_path={folder} trains it further, and "
            f"`qlora-fast merge {shlex.quote(str(folder))} -o FOLDER` makes a model of it",
        )
    models = [f"`{file.parent}`" for file in sorted(folder.glob(f"[!.]*/{MODEL_CONFIG}"))]
    return ArtifactError(
        f"`{folder}` is {kind}, not a model" if kind else f"`{folder}` is not a model: it has no {MODEL_CONFIG}",
        hint=f"models there: {', '.join(models[:6])}" if models else "give the folder of a whole model",
    )


def _beside(path: Path) -> list[Path]:
    """The folders and model files at a path's place."""
    if not path.parent.is_dir():
        return []
    return [p for p in path.parent.iterdir() if p.is_dir() or p.suffix == ".gguf"]
