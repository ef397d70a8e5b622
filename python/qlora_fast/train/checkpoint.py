"""Checkpoints that hold everything, verify, and never contain code.

``checkpoint-N/`` has the adapter as PEFT writes it, the optimizer and the random state as safetensors, the progress as
JSON, and a MANIFEST.json, written last, with the size and hash of each file. A checkpoint that does not verify is named
and passed over; the one before it is taken.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qlora_fast import atomic_io
from qlora_fast.config.paths import settled_base
from qlora_fast.errors import ArtifactError
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.pissa import plain_settings
from qlora_fast.train.distributed import all_gather
from qlora_fast.train.optimizer import AdamW
from qlora_fast.train.progress import Progress

log = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"
PARTS = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "optimizer.safetensors",
    "random.safetensors",
    "progress.json",
)
"""Without any one of these a run would go on differently: none is optional."""
_STATE = PARTS[2:]
"""What a checkpoint of the adapter alone (``save_only_model``) leaves out; no run can go on from it."""
_NAME = re.compile(r"checkpoint-(\d+)")
Identity = dict[str, Any]
EFFECTIVE_BATCH = "samples_per_update"
"""Of an identity: what batch, accumulation and processes come to. How they share it is free to change."""


def save_checkpoint(
    folder: Path, model: nn.Module, adapter: Adapter, optimizer: AdamW, progress: Progress, identity: Identity,
    *, adapter_only: bool = False,
) -> Path:  # fmt: skip
    """Write ``checkpoint-N`` into the run's folder, whole or not at all. All ranks call it, the first one writes."""
    target = folder / f"checkpoint-{progress.update}"
    random = _random_states()
    if _rank() == 0:
        if target.exists() and damage(target) is not None:
            # Evidence of what went wrong is kept, and out of the way.
            set_aside(target, "damaged")
        with atomic_io.new_folder(target) as made:
            write_adapter(made, model, adapter)
            if not adapter_only:
                save_file(optimizer.tensors(), made / "optimizer.safetensors")
                save_file(random, made / "random.safetensors")
                _write_json(made / "progress.json", {"progress": asdict(progress), "identity": identity})
            _write_json(made / "trainer_state.json", trainer_state(progress))
            files = {p.name: {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in sorted(made.iterdir())}
            (made / MANIFEST).write_text(_manifest(files), encoding="utf-8")
    return target


def write_adapter(folder: Path, model: nn.Module, adapter: Adapter, base: str | None = None) -> None:
    """The two files that make a folder a PEFT adapter; equal weights give equal bytes.

    Args:
        base: what to name as the base model, if not the place that it was loaded from.
    """
    save_file(adapter.tensors(), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()  # type: ignore[index, union-attr]
    if adapter.origin is not None:
        config = plain_settings(config)
    config["inference_mode"] = True
    if base is not None:
        config["base_model_name_or_path"] = base
    # PEFT keeps names in sets, whose order changes from process to process.
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    _write_json(folder / "adapter_config.json", plain)


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
    """The newest checkpoint that verifies; damaged ones are named and left where they are.

    One of the adapter alone is given only if there is no other.
    """
    second: Path | None = None
    for path in reversed(checkpoints(folder)):
        problem = damage(path)
        if problem is not None:
            log.warning("`%s` is damaged (%s) and passed over", path, problem)
        elif (path / _STATE[0]).is_file():
            return path
        else:
            second = second or path
    return second


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run, by update."""
    found = [p for p in folder.glob("checkpoint-*") if p.is_dir() and _NAME.fullmatch(p.name)]
    return sorted(found, key=_number)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        files = json.loads(text)["files"]
        if text != _manifest(files):
            return f"{MANIFEST} has other content"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} is unreadable: {error}"
    missing = [name for name in PARTS if name not in files]
    if missing and tuple(missing) != _STATE:
        return f"{MANIFEST} does not list {missing[0]}"
    for name, entry in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
        if _sha256(file) != entry["sha256"]:
            return f"{name} has other content"
    return None


def load_checkpoint(path: Path, adapter: Adapter, optimizer: AdamW, identity: Identity) -> Progress:
    """Put a verified checkpoint's state into the parts of a run; nothing is optional.

    Raises:
        ArtifactError: it is of another run or of another model, or holds the adapter alone.
    """
    if not (path / _STATE[0]).is_file():
        raise ArtifactError(
            f"`{path}` holds the adapter alone (save_only_model): no run can go on from it",
            hint="start anew in another output_dir, with save_only_model: false",
        )
    stored = json.loads((path / "progress.json").read_text(encoding="utf-8"))
    before, now = stored["identity"], json.loads(json.dumps(identity))
    # Earlier versions kept the base as it was typed, and some keys that change nothing.
    if isinstance(base := before.get("model_name_or_path"), str):
        before["model_name_or_path"] = settled_base(base)
    free = set()
    if before.get("packing") == now.get("packing") == "exact":
        # An exact update is its samples; into how many rows they are cut changes memory and speed alone.
        free.add("max_tokens_per_row")
    changed = [f"{n}: {before.get(n)!r} → {now[n]!r}" for n in sorted(now.keys() - free) if before.get(n) != now[n]]
    if changed:
        hint = "give the same settings and data, or start anew in another output_dir"
        if len(changed) == 1 and before.get(EFFECTIVE_BATCH) != now.get(EFFECTIVE_BATCH):
            hint = (
                f"with another number of processes, set gradient_accumulation_steps so that batch × accumulation × "
                f"processes is {before.get(EFFECTIVE_BATCH)} again"
            )
        raise ArtifactError(f"`{path}` is of another run: " + "; ".join(changed), hint=hint)
    try:
        moments, random = load_file(path / "optimizer.safetensors"), load_file(path / "random.safetensors")
        adapter.load(load_file(path / "adapter_model.safetensors"), str(path))
        optimizer.load(moments)
        _set_random_state(random, (int(now.get("seed", 0)) << 32) + (stored["progress"]["update"] << 10))
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ArtifactError(
            f"`{path}` does not fit this run: {error}", hint="start anew in another output_dir"
        ) from error
    return Progress(**stored["progress"])


def set_aside(path: Path, why: str) -> Path:
    """Rename ``checkpoint-N`` to ``checkpoint-N.why``, under which nothing takes it for a checkpoint; nothing is deleted."""
    return path.rename(_unused(path.with_name(f"{path.name}.{why}")))


def rotate(folder: Path, limit: int | None, keep: int | None) -> None:
    """Remove the oldest checkpoints beyond ``limit``; never the newest nor the one of update ``keep``.

    Damaged ones count as well, but the newest that verifies is never removed.
    """
    if limit is None:
        return
    everything = checkpoints(folder)
    safe = next((p for p in reversed(everything) if damage(p) is None), None)
    removable = [p for p in everything[:-1] if _number(p) != keep and p != safe]
    for path in removable[: max(len(everything) - limit, 0)]:
        atomic_io.remove_folder(path)


def _random_states() -> dict[str, Tensor]:
    """The random state of every rank. Only dropout draws from torch; order and split have a stateless source."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    if not dist.is_initialized():
        return {f"rank0.{name}": state for name, state in own.items()}
    return {f"rank{rank}.{name}": part for name, state in own.items() for rank, part in enumerate(all_gather(state))}


def _set_random_state(states: dict[str, Tensor], fresh_seed: int) -> None:
    """Go on drawing where this rank stopped; with another number of ranks, from a seed of its own.

    A run with other ranks cannot draw the same dropout: each rank has other rows. It must not draw anew what was drawn
    at the beginning either.
    """
    world = dist.get_world_size() if dist.is_initialized() else 1
    before = len({name.partition(".")[0] for name in states})
    if before != world:
        log.info("the run had %d process%s, now %d: dropout draws anew", before, "es" * (before > 1), world)
        torch.manual_seed(fresh_seed + _rank())
        return
    torch.set_rng_state(states[f"rank{_rank()}.cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(states[f"rank{_rank()}.cuda"])


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _number(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[-1])


def _unused(path: Path) -> Path:
    candidates = (path.with_name(f"{path.name}{suffix}") for suffix in ("", *(f".{n}" for n in range(2, 10_000))))
    return next(p for p in candidates if not p.exists())


def _manifest(files: dict[str, Any]) -> str:
    """The manifest's own hash is in it, so that no bit of it can change unseen either."""
    body = json.dumps(files, sort_keys=True)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return json.dumps({"format_version": 1, "files": files, "sha256": digest}, indent=2, sort_keys=True)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")


def _sha256(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
