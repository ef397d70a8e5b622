"""Prepared data, verified: every byte of its shards and of its manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from qlora_fast import _core
from qlora_fast.doctor.finding import Finding
from qlora_fast.errors import ArtifactError

_EDITED = "rejected.jsonl"
"""Meant to be edited, and not read by training: another content is no damage."""


_FILES = ("manifest.json", "checksums.json", _EDITED, "report")


def fits(path: Path) -> bool:
    """Whether a folder is prepared data."""
    return any((path / name).is_file() for name in _FILES[:2])


def verify(path: Path, progress: Callable[[str, int, int], object] | None = None) -> Iterator[Finding]:
    """One finding for each file that is not as it was written, or one that says that all are."""
    try:
        manifest, problems = _core.verify_prepared(path, progress)
    except ArtifactError as error:
        yield Finding("manifest.json", "broken", error.message, error.hint)
        return
    for file, problem in problems:
        if file == _EDITED:
            yield Finding(file, "note", f"{problem}: it was edited or damaged")
        else:
            hint = "run the same `qlora-fast prep` or `train` again: it makes the shard again from its source"
            yield Finding(file, "broken", problem, hint)
    known = {*_FILES, *(shard["file"] for shard in manifest["shards"])}
    for extra in sorted(entry.name for entry in path.iterdir() if entry.name not in known):
        yield Finding(extra, "note", "no part of the prepared data: nothing reads it")
    whole = len(manifest["shards"]) - sum(file != _EDITED for file, _ in problems)
    size = sum(shard["bytes"] for shard in manifest["shards"])
    yield Finding(
        "shards", "ok", f"{whole:,} of {len(manifest['shards']):,} as they were written, {size / 1e6:,.1f} MB in all"
    )
