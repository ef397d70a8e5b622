"""Checkpoints that hold everything, verify, and never contain code.

``checkpoint-N/`` has the adapter as PEFT writes it, the optimizer and random state as safetensors, the progress as JSON,
and a MANIFEST.json, written last, with the size and hash of each file. A checkpoint that does not verify is named and passed
over; the one before it is taken.
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
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qlora_fast import durable
from qlora_fast.errors import ArtifactError
from qlora_fast.trainer import Progress

log = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"
_NAME = re.compile(r"checkpoint-(\d+)")
Identity = dict[str, Any]


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, identity: Identity
) -> Path:
    """Write ``checkpoint-N`` into the run's folder, whole or not at all."""
    target = folder / f"checkpoint-{progress.update}"
    with durable.new_folder(target) as made:
        model.save_pretrained(made)  # type: ignore[operator]
        (made / "README.md").unlink(missing_ok=True)
        save_file(_optimizer_tensors(model, optimizer), made / "optimizer.safetensors")
        save_file(_random_state(), made / "random.safetensors")
        _write_json(made / "progress.json", {"progress": asdict(progress), "identity": identity})
        _write_json(made / "trainer_state.json", trainer_state(progress))
        files = {p.name: {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in sorted(made.iterdir())}
        _write_json(made / MANIFEST, {"format_version": 1, "files": files})
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
    """The newest checkpoint that verifies; damaged ones are named and left where they are."""
    for path in sorted(checkpoints(folder), key=_number, reverse=True):
        problem = damage(path)
        if problem is None:
            return path
        log.warning("`%s` is damaged (%s) and passed over", path, problem)
    return None


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run, by update."""
    found = [p for p in folder.glob("checkpoint-*") if p.is_dir() and _NAME.fullmatch(p.name)]
    return sorted(found, key=_number)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, entry in files.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
            if _sha256(file) != entry["sha256"]:
                return f"{name} has other content"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is unreadable: {error}"
    return None


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: Identity
) -> Progress:
    """Put a verified checkpoint's state into the parts of a run; nothing is optional.

    Raises:
        ArtifactError: it is of another run, or of another model.
    """
    stored = json.loads((path / "progress.json").read_text(encoding="utf-8"))
    changed = [
        f"{name}: {stored['identity'].get(name)!r} → {identity.get(name)!r}"
        for name in sorted(stored["identity"] | identity)
        if stored["identity"].get(name) != identity.get(name)
    ]
    if changed:
        raise ArtifactError(
            f"`{path}` is of another run: " + "; ".join(changed),
            hint="give the same settings and data, or start anew in another output_dir",
        )
    from peft import set_peft_model_state_dict

    try:
        weights = load_file(path / "adapter_model.safetensors")
        report = set_peft_model_state_dict(model, weights)
        if report.unexpected_keys:
            raise ArtifactError(f"`{path}` does not fit the model: {report.unexpected_keys[:3]}")
        _load_optimizer(model, optimizer, load_file(path / "optimizer.safetensors"))
        _set_random_state(load_file(path / "random.safetensors"))
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ArtifactError(f"`{path}` does not fit the model: {error}") from error
    return Progress(**stored["progress"])


def rotate(folder: Path, limit: int | None, keep: int | None) -> None:
    """Remove the oldest checkpoints beyond ``limit``; never the newest nor the one of update ``keep``."""
    if limit is None:
        return
    removable = [p for p in checkpoints(folder)[:-1] if _number(p) != keep]
    excess = len(checkpoints(folder)) - limit
    for path in removable[: max(excess, 0)]:
        durable.remove_folder(path)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {
        f"{names[parameter]}::{part}": tensor.detach().cpu().contiguous()
        for parameter, state in optimizer.state.items()
        for part, tensor in state.items()
    }


def _load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts = {part: tensors[f"{name}::{part}"] for part in ("step", "exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {
                part: tensor.to(parameter.device if part != "step" or parameter.is_cuda else "cpu")
                for part, tensor in parts.items()
            }


def _random_state() -> dict[str, Tensor]:
    """Dropout is the only thing that draws from torch; order and split have their own, stateless source."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _number(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[-1])


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")


def _sha256(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
