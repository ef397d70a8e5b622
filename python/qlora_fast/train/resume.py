"""Where a run resumes: the newest complete checkpoint of its folder, or the one that the config names.

A run resumes in its own folder. A checkpoint in another one is refused: ``best/`` and the log that belong to it would stay
behind there.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import TypeGuard

from qlora_fast.config import Config
from qlora_fast.errors import ArtifactError
from qlora_fast.runs import layout
from qlora_fast.runs.resolve import target_of
from qlora_fast.train import checkpoint
from qlora_fast.train.adapter_folder import AdapterFolder
from qlora_fast.train.best import restore_best
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.identity import COMPILED, PRODUCTS, ROW_BUDGET, Identity, other_settings
from qlora_fast.train.kept import Kept
from qlora_fast.train.on_every_machine import on_every_machine
from qlora_fast.train.progress import Progress
from qlora_fast.train.run_log import RunLog
from qlora_fast.train.setup import Setup

log = logging.getLogger(__name__)

AUTO = "auto"
"""For a command that is started again unchanged: by a launcher after a failure, by a scheduler after a preemption."""


def is_named(wanted: bool | str) -> TypeGuard[str]:
    """Whether ``resume_from_checkpoint`` names a checkpoint."""
    return isinstance(wanted, str) and wanted != AUTO


def is_own(output: Path, identity: Identity) -> bool:
    """Whether the newest checkpoint of a folder is of the run with this identity; False where there is none."""
    if not output.is_dir():
        return False
    newest = checkpoint.newest_whole(output)
    return newest is not None and not checkpoint.changed_since(newest, identity)


def resume(setup: Setup, identity: Identity, folder: AdapterFolder, ranks: Ranks, *, anyway: bool) -> Progress | None:
    """Load the checkpoint that a run resumes from, and bring its folder to the state of that moment.

    Args:
        anyway: see :func:`~qlora_fast.train.checkpoint.load_checkpoint`.

    Returns:
        Where the run stands; None to start from the beginning.

    Raises:
        ArtifactError: the checkpoint is of another run, or damaged.
    """
    config = setup.config
    wanted = config.resume_from_checkpoint
    if not wanted:
        return None
    output, updates = Path(config.output_dir), setup.timetable.updates
    start = ranks.from_first(lambda: str(starting_point(output, wanted) or ""))
    progress = None
    if start:
        with on_every_machine(Path(start), ranks) as found:
            progress = checkpoint.load_checkpoint(
                found, setup.adapter, setup.optimizer, identity, ranks=ranks, anyway=anyway
            )
        log.info("resuming from `%s`, update %d of %d", start, progress.update, updates)
    else:
        log.info("no checkpoint in `%s` yet: starting from the beginning", output)
    if ranks.first:
        if is_named(wanted):
            set_aside_behind(Path(start))
        # The killed run may have logged updates that are made again now.
        RunLog(output, updates).start(progress.log_history if progress else [])
        if progress is not None:
            restore_best(output, progress, folder)
    return progress


def kept(config: Config, ranks: Ranks) -> Kept:
    """What the checkpoint says that a run will probably resume from; nothing without one.

    Nothing is verified here: what is wrong with a checkpoint is said when it is loaded.
    """
    wanted, output = config.resume_from_checkpoint, Path(config.output_dir)

    def read() -> str:
        newest = reversed(checkpoint.checkpoints(output)) if wanted and output.is_dir() else ()
        for path in [Path(wanted)] if is_named(wanted) else newest:
            with suppress(ArtifactError):
                found = checkpoint.stored_identity(path)
                # With `auto` a folder may hold another run, which is moved aside: its decisions are not this run's.
                if wanted != AUTO or not other_settings(found, config):
                    return json.dumps({name: found.get(name) for name in (ROW_BUDGET, PRODUCTS, COMPILED)})
        return "{}"

    return Kept.of(json.loads(ranks.from_first(read)))


def check_start(config: Config) -> None:
    """Refuse a folder or a checkpoint that cannot be resumed from, before anything is loaded.

    Raises:
        ArtifactError: see :func:`starting_point`.
    """
    output, wanted = Path(config.output_dir), config.resume_from_checkpoint
    moved_aside = config.overwrite_output_dir
    if is_named(wanted) or (wanted and not moved_aside and output.is_dir() and not checkpoint.checkpoints(output)):
        starting_point(output, wanted)


def starting_point(output: Path, wanted: bool | str) -> Path | None:
    """The checkpoint to resume from; None to start from the beginning.

    Args:
        wanted: ``resume_from_checkpoint``.

    Raises:
        ArtifactError: the named checkpoint is not one of this folder, or is damaged: another is never taken in its place.
            Or a finished run has none left: its adapter is never overwritten by a new beginning.
    """
    if not wanted:
        return None
    if not is_named(wanted):
        newest = checkpoint.newest_whole(output)
        if newest is None and (output / layout.ADAPTER_WEIGHTS).is_file():
            raise ArtifactError(
                f"the run `{output}` has finished, and has no checkpoint to resume from",
                hint=f"adapter_name_or_path={output} output_dir=… starts a new run from its weights; "
                "overwrite_output_dir=true moves it aside and starts over",
            )
        return newest
    named = Path(wanted)
    if not named.is_dir():
        raise ArtifactError(f"no checkpoint `{named}`", hint=_others(output))
    if _has_state(named):
        return _complete(named, output)
    raise _no_state(named, output)


def _has_state(folder: Path) -> bool:
    """Whether a folder is, or was, a checkpoint: what is missing of one is named as damage."""
    written = any((folder / name).is_file() for name in (layout.MANIFEST, layout.PROGRESS))
    return written and (layout.update_of(folder.resolve().name) is not None or (folder / layout.PROGRESS).is_file())


def _no_state(named: Path, output: Path) -> ArtifactError:
    """What a folder is instead of a checkpoint, in the words of every command."""
    try:
        target = target_of(named)
    except ArtifactError:
        return _foreign(named, "leave resume_from_checkpoint out, and start over")
    if target.kind == "run":
        others = [f"`{path}`" for path in checkpoint.checkpoints(named)]
        return ArtifactError(
            f"`{named}` is a run, not a checkpoint in it",
            hint=f"checkpoints there: {', '.join(others)}" if others else f"`{named}` has no checkpoints",
        )
    if target.adapter is None:
        return ArtifactError(f"`{named}` is a base model, not a checkpoint", hint=_others(output))
    hint = f"adapter_name_or_path={named} starts a new run from its weights"
    if target.run is None and not (named / layout.MANIFEST).is_file():
        return _foreign(named, hint)
    return ArtifactError(
        f"`{named}` is an adapter, not a checkpoint: it has no optimizer state", hint=f"{hint}; {_others(output)}"
    )


def _foreign(named: Path, way_out: str) -> ArtifactError:
    return ArtifactError(
        f"`{named}` is not a checkpoint of qlora-fast: it has no {layout.MANIFEST}",
        hint=f"the optimizer state of another program cannot be resumed; {way_out}",
    )


def _complete(named: Path, output: Path) -> Path:
    """A checkpoint of this folder that is as it was written.

    Raises:
        ArtifactError: it is of another folder, or damaged.
    """
    if named.resolve().parent != output.resolve():
        raise ArtifactError(
            f"`{named}` is not in output_dir `{output}`",
            hint=f"a run resumes in its own folder: output_dir={named.parent}, or a copy of it",
        )
    if problem := checkpoint.damage(named):
        raise ArtifactError(f"`{named}` is damaged ({problem})", hint=_others(output))
    return named


def set_aside_behind(start: Path) -> None:
    """Move the checkpoints after the one that a run resumes from out of the way: they are no longer its newest."""
    everything = checkpoint.checkpoints(start.parent)
    own = [path.name for path in everything].index(start.name)
    for path in everything[own + 1 :]:
        aside = checkpoint.set_aside(path, "aside")
        log.info("`%s` is later than it and was moved to `%s`", path, aside.name)


def _others(output: Path) -> str:
    names = ", ".join(path.name for path in checkpoint.checkpoints(output)) if output.is_dir() else ""
    there = f"`{output}` has {names}; " if names else f"`{output}` has none; "
    return there + "resume_from_checkpoint=true takes the newest whole one"
