"""Folders compared: what must not depend on a fault, byte for byte, and what of them is a time and may differ."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from qlora_fast import atomic_io
from qlora_fast.hub import manifest
from qlora_fast.runs import layout

Digest = dict[str, str]

_TIME = re.compile(r"_(second|seconds|runtime)$|per_second|^seconds$|^peak$|^process$|^host$")
_ONLY_THERE = {layout.RUN, layout.CONFIG, layout.MODEL_CARD}
"""run.json has the command that was typed, config.yaml that it was resumed, README.md times: they must exist."""
_LEFT = re.compile(r"\.partial$|\.tmp|^\.tmp|\.part$")


def digest(folder: Path) -> Digest:
    """A hash of every file below a folder, by its path; times are taken out of JSON."""
    return {str(p.relative_to(folder)): _hash(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def difference(before: Digest, after: Digest) -> str:
    """The first files that differ, or "" where none does."""
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    return ", ".join(
        f"{n} ({'missing' if n not in after else 'new' if n not in before else 'other'})" for n in names[:5]
    )


def leftovers(*folders: Path) -> list[str]:
    """Temporary files and folders that are still there."""
    found = [p for folder in folders if folder.is_dir() for p in [*folder.iterdir(), *folder.rglob("*")]]
    return sorted({str(p) for p in found if atomic_io.is_temporary(p) or _LEFT.search(p.name)})


def half_written(run: Path) -> list[str]:
    """Adapters and checkpoints of a run that are there under their names but not complete: there must never be one."""
    places = [run / layout.BEST, run / layout.LAST, *(run.glob("checkpoint-*") if run.is_dir() else ())]
    return [f"{p.name}: {problem}" for p in places if p.exists() and (problem := manifest.damage(p))]


def _hash(path: Path) -> str:
    if path.name in _ONLY_THERE or path.suffix == ".png":
        return "there"
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        lines = content.splitlines() if path.suffix == ".jsonl" else [content]
        with suppress(ValueError, RecursionError):  # a damaged file is its bytes
            content = json.dumps([_timeless(path.name, json.loads(line)) for line in lines], sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _timeless(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        if name == layout.MANIFEST:
            # The hashes of the files are those of this very comparison, but for files that hold times.
            return {"names": sorted(value.get("files", {})), "about": value.get("about")}
        return {k: _timeless(name, v) for k, v in value.items() if not _TIME.search(k)}
    return [_timeless(name, item) for item in value] if isinstance(value, list) else value
