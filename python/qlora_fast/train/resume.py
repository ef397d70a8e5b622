"""Where a run goes on: the newest whole checkpoint of its folder, or the one that the config names.

A run goes on in its own folder. A checkpoint in another one is refused: ``best/`` and the log that belong to it would stay
behind there.
"""

from __future__ import annotations

import logging
from pathlib import Path

from qlora_fast.errors import ArtifactError
from qlora_fast.train import checkpoint

log = logging.getLogger(__name__)


def starting_point(output: Path, wanted: bool | str) -> Path | None:
    """The checkpoint to go on from; None to start from the beginning.

    Args:
        wanted: ``resume_from_checkpoint``.

    Raises:
        ArtifactError: the named checkpoint is not one of this folder, or does not verify. Another is never taken in its
            place.
    """
    if not wanted:
        return None
    if isinstance(wanted, bool):
        return checkpoint.newest_whole(output)
    named = Path(wanted)
    if not named.is_dir():
        raise ArtifactError(f"no checkpoint `{named}`", hint=_others(output))
    if not any((named / name).is_file() for name in (checkpoint.MANIFEST, "progress.json")):
        raise ArtifactError(
            f"`{named}` is no checkpoint of qlora-fast: it has no {checkpoint.MANIFEST}",
            hint="the optimizer of another program cannot be gone on with; leave resume_from_checkpoint out, and start anew",
        )
    if named.resolve().parent != output.resolve():
        raise ArtifactError(
            f"`{named}` is not in output_dir `{output}`",
            hint=f"a run goes on in its own folder: output_dir={named.parent}, or a copy of it",
        )
    if problem := checkpoint.damage(named):
        raise ArtifactError(f"`{named}` is damaged ({problem})", hint=_others(output))
    return named


def set_aside_behind(start: Path) -> None:
    """Move the checkpoints behind the one that a run goes on from out of the way: they are no longer its newest."""
    everything = checkpoint.checkpoints(start.parent)
    own = [path.name for path in everything].index(start.name)
    for path in everything[own + 1 :]:
        aside = checkpoint.set_aside(path, "aside")
        log.info("`%s` lies behind it and was moved to `%s`", path, aside.name)


def _others(output: Path) -> str:
    names = ", ".join(path.name for path in checkpoint.checkpoints(output))
    there = f"`{output}` has {names}; " if names else f"`{output}` has none; "
    return there + "resume_from_checkpoint=true takes the newest whole one"
