"""Checkpoints that hold everything, are verified, and never contain code.

``checkpoint-N/`` has the adapter as PEFT writes it, the optimizer and the random state as safetensors, the progress as
JSON, and a MANIFEST.json, written last, with the size and hash of each file. A damaged checkpoint is named and passed over;
the one before it is taken.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from qlora_fast import atomic_io
from qlora_fast.errors import ArtifactError
from qlora_fast.hub import manifest
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.runs import layout
from qlora_fast.train import random_state
from qlora_fast.train.adapter_folder import write_adapter
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.identity import EFFECTIVE_BATCH, Identity, differences, library_versions
from qlora_fast.train.optimizer import AdamW
from qlora_fast.train.progress import Progress

log = logging.getLogger(__name__)

PARTS = (layout.ADAPTER_CONFIG, layout.ADAPTER_WEIGHTS, layout.OPTIMIZER, layout.RANDOM, layout.PROGRESS)
"""Without any one of these a resumed run would differ: none is optional."""
_STATE = PARTS[2:]
"""What a checkpoint of the adapter alone (``save_only_model``) leaves out; no run can resume from it."""


def save_checkpoint(
    folder: Path, model: nn.Module, adapter: Adapter, optimizer: AdamW, progress: Progress, identity: Identity,
    *, ranks: Ranks | None = None, adapter_only: bool = False,
) -> Path:  # fmt: skip
    """Write ``checkpoint-N`` into the run's folder, complete or not at all. All ranks call it, the first one writes.

    Raises:
        StorageError: it cannot be written; earlier checkpoints are as they were.
    """
    ranks = ranks or Ranks()
    target = folder / layout.checkpoint(progress.update)
    random = random_state.random_states(ranks)
    if not ranks.first:
        return target
    if target.exists() and damage(target) is not None:
        # Evidence of what went wrong is kept, under another name.
        set_aside(target, "damaged")
    with atomic_io.new_folder(target) as made:
        write_adapter(made, model, adapter)
        if not adapter_only:
            atomic_io.save_tensors(optimizer.tensors(), made / layout.OPTIMIZER)
            atomic_io.save_tensors(random, made / layout.RANDOM)
            stored = {"progress": asdict(progress), "identity": identity, "versions": library_versions()}
            _write_json(made / layout.PROGRESS, stored)
        _write_json(made / layout.TRAINER_STATE, trainer_state(progress))
        manifest.write(made)
    return target


def trainer_state(progress: Progress) -> dict[str, Any]:
    """The state as transformers' tools read it."""
    return {
        "global_step": progress.update,
        "epoch": progress.log_history[-1]["epoch"] if progress.log_history else 0.0,
        "best_metric": progress.best_metric,
        "best_global_step": progress.best_update,
        "log_history": progress.log_history,
    }


def newest_whole(folder: Path) -> Path | None:
    """The newest complete checkpoint; damaged ones are named and left where they are.

    One of the adapter alone is given only if there is no other.
    """
    second: Path | None = None
    for path in reversed(checkpoints(folder)):
        problem = damage(path)
        if problem is not None:
            log.warning("`%s` is damaged (%s) and passed over", path, problem)
        elif (path / layout.PROGRESS).is_file():
            return path
        else:
            second = second or path
    return second


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run, by update."""
    found = [(update, p) for p in folder.iterdir() if p.is_dir() and (update := layout.update_of(p.name)) is not None]
    return [path for _, path in sorted(found)]


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    problem = manifest.damage(path)
    if problem is not None:
        return problem
    missing = tuple(name for name in PARTS if name not in manifest.listed(path))
    return None if missing in ((), _STATE) else f"{layout.MANIFEST} does not list {missing[0]}"


def load_checkpoint(
    path: Path, adapter: Adapter, optimizer: AdamW, identity: Identity,
    *, ranks: Ranks | None = None, anyway: bool = False,
) -> Progress:  # fmt: skip
    """Put a verified checkpoint's state into the parts of a run; nothing is optional.

    Args:
        anyway: resume although something of the run's identity differs, and say what.

    Raises:
        ArtifactError: it is of another run or of another model, or holds the adapter alone.
    """
    if not (path / layout.PROGRESS).is_file():
        raise ArtifactError(
            f"`{path}` holds the adapter alone (save_only_model): no run can resume from it",
            hint="start over in another output_dir, with save_only_model: false",
        )
    stored, progress = _read_progress(path)
    _compare(path, stored, identity, anyway=anyway)
    try:
        moments, random = load_file(path / layout.OPTIMIZER), load_file(path / layout.RANDOM)
        weights = load_file(path / layout.ADAPTER_WEIGHTS)
        if not all(bool(value.isfinite().all()) for value in weights.values()):
            raise ArtifactError(
                f"the adapter in `{path}` has values that are not finite", hint="resume from an earlier checkpoint"
            )
        adapter.load(weights, str(path))
        optimizer.load(moments)
        ranks = ranks or Ranks()
        random_state.restore(random, ranks, (int(identity.get("seed", 0)) << 32) + (progress.update << 10))
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"`{path}` does not fit this run: {error}", hint="start over in another output_dir"
        ) from error
    return progress


def changed_since(path: Path, identity: Identity) -> list[str]:
    """What of a run's identity differs from that of a checkpoint; of one without state, that it has none."""
    if not (path / layout.PROGRESS).is_file():
        return [f"{layout.PROGRESS} is missing"]
    stored, _ = _read_progress(path)
    return differences(stored["identity"], identity)


def set_aside(path: Path, why: str) -> Path:
    """Rename a folder to ``NAME.why``, under which nothing takes it for what it was; nothing is deleted."""
    return path.rename(unused(path.with_name(f"{path.name}.{why}")))


def rotate(folder: Path, limit: int | None, keep: int | None) -> None:
    """Remove the oldest checkpoints beyond ``limit``; never the newest nor the one of update ``keep``.

    Damaged ones count as well, but the newest complete one is never removed.
    """
    if limit is None:
        return
    everything = checkpoints(folder)
    safe = next((p for p in reversed(everything) if damage(p) is None), None)
    removable = [p for p in everything[:-1] if layout.update_of(p.name) != keep and p != safe]
    for path in removable[: max(len(everything) - limit, 0)]:
        atomic_io.remove_folder(path)


def stored_identity(path: Path) -> Identity:
    """What the run of a checkpoint depends on.

    Raises:
        ArtifactError: it cannot be read.
    """
    identity: Identity = _read_progress(path)[0]["identity"]
    return identity


def _read_progress(path: Path) -> tuple[dict[str, Any], Progress]:
    try:
        stored = json.loads((path / layout.PROGRESS).read_text(encoding="utf-8"))
        if not isinstance(stored, dict) or not isinstance(stored.get("identity"), dict):
            raise ValueError("it has no identity")
        progress = Progress.restored(stored.get("progress"))
        if progress.update != layout.update_of(path.name):
            raise ValueError(f"it is of update {progress.update}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"`{path / layout.PROGRESS}` cannot be used: {error}", hint="resume from another checkpoint"
        ) from error
    return stored, progress


def _compare(path: Path, stored: dict[str, Any], identity: Identity, *, anyway: bool) -> None:
    """Refuse a checkpoint of another run, or say what will differ.

    Raises:
        ArtifactError: something differs, and it is not to be resumed anyway.
    """
    libraries = differences(stored.get("versions", library_versions()), library_versions())
    if libraries:
        log.info(
            "other library versions than at the checkpoint (results may round differently): %s", "; ".join(libraries)
        )
    before = stored["identity"]
    changed = differences(before, identity)
    if not changed:
        return
    if anyway:
        log.warning(
            "resuming although this is not the run that wrote `%s`; from update %d on it trains with: %s. The result is "
            "neither that of the old settings nor that of the new ones",
            path, stored["progress"]["update"], "; ".join(changed),
        )  # fmt: skip
        return
    hint = "give the same settings, data and base model, or start over in another output_dir; --resume-anyway takes it as it is"
    if len(changed) == 1 and before.get(EFFECTIVE_BATCH) != identity.get(EFFECTIVE_BATCH):
        hint = (
            f"with another number of processes, set gradient_accumulation_steps so that batch × accumulation × "
            f"processes is {before.get(EFFECTIVE_BATCH)} again"
        )
    raise ArtifactError(f"`{path}` is of another run: " + "; ".join(changed), hint=hint)


def unused(path: Path) -> Path:
    """``path``, or where it is taken the first of ``path.2``, ``path.3`` … that is free."""
    candidates = (path.with_name(f"{path.name}{suffix}") for suffix in ("", *(f".{n}" for n in range(2, 10_000))))
    return next(p for p in candidates if not p.exists())


def _write_json(path: Path, value: Any) -> None:
    path.write_text(atomic_io.json_text(value, indent=2), encoding="utf-8")
