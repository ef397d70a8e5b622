"""Fold an adapter into its base model: one tensor at a time, in fp32, into a folder that is whole or not there.

The base stays what it is stored as (bf16 as a rule), and so does the result. Rounding is what a merge costs: bf16 has 8
bits of mantissa, and an update much smaller than its weight falls between two of its values. How much of it arrived is
counted, and :mod:`qlora_fast.merge.verify` holds the merged model's answers against those of base and adapter.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from qlora_fast.errors import ArtifactError
from qlora_fast.hub import resolve, untrusted
from qlora_fast.hub.manifest import Verify
from qlora_fast.hub.untrusted import weight_files
from qlora_fast.merge.delta import Update, nearest
from qlora_fast.merge.safetensors_stream import Entry, read_header, write_file, write_index

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")


@dataclass(slots=True)
class Counts:
    """What became of the update: weights that it moves, those that came out different, and its size and rounding."""

    weights: int = 0
    moved: int = 0
    changed: int = 0
    update_squared: float = 0.0
    error_squared: float = 0.0

    def add(self, base: Tensor, wanted: Tensor, written: Tensor) -> None:
        before = base.float()
        self.weights += base.numel()
        self.moved += int((wanted != before).sum())
        self.changed += int((written.float() != before).sum())
        self.update_squared += float((wanted - before).double().square().sum())
        self.error_squared += float((written.float() - wanted).double().square().sum())

    @property
    def rounding(self) -> float:
        """Length of the rounding error ÷ length of the update."""
        return (self.error_squared / self.update_squared) ** 0.5 if self.update_squared else 0.0


def base_folder(name: str, verify: Verify = "full") -> Path:
    """The base model's files, fetched if need be.

    Args:
        verify: what is compared with its manifest, if this program merged it.

    Raises:
        ArtifactError: it is not found, or it is stored quantized.
    """
    path = resolve.local_folder(resolve.model_path(name, verify))
    config = untrusted.read_json(Path(path) / untrusted.MODEL_CONFIG, untrusted.ModelConfig)
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "quantized")
        raise ArtifactError(
            f"`{path}` is stored quantized ({method}): what an adapter learned would be rounded away in it",
            hint="merge onto the 16-bit weights that it was made from: --base FOLDER; quantize the result if need be",
        )
    return Path(path)


def write_merged(
    base: Path,
    update: Update,
    folder: Path,
    dtype: torch.dtype | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Counts:
    """Write the merged weights and their config into ``folder``, file by file as the base has them.

    Args:
        dtype: of the merged model; default the base's own.
        progress: called with (bytes done, bytes in all).

    Raises:
        ArtifactError: a part of the adapter finds no weight in the base, or one of another shape.
    """
    settings = untrusted.read_json(base / untrusted.MODEL_CONFIG, untrusted.ModelConfig)
    tied = bool(settings.get("tie_word_embeddings"))
    plan, untied = _plan({path: read_header(path) for path in weight_files(base)}, update, tied, dtype)
    _check_all_used(plan, update, base)
    total = sum(line.entry.bytes for lines in plan.values() for line in lines)
    counts, done = Counts(), 0
    for path, lines in plan.items():
        with safe_open(path, framework="pt") as file:
            sources = {line.entry.name: line for line in lines}

            def tensor_of(entry: Entry, file: Any = file, sources: dict[str, _Line] = sources) -> Tensor:
                nonlocal done
                line = sources[entry.name]
                tensor = _merge_one(file.get_tensor(line.source), line, update, counts)
                done += entry.bytes
                progress(done, total)
                return tensor

            write_file(folder / path.name, [line.entry for line in lines], tensor_of)
    write_index(folder, {path.name: [line.entry for line in lines] for path, lines in plan.items()})
    if untied:
        settings["tie_word_embeddings"] = False
    if dtype is not None:
        settings.pop("torch_dtype", None)
        settings["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")
    return counts


@dataclass(frozen=True, slots=True)
class _Line:
    """A tensor to be written, the base's tensor that it comes from, and what the adapter calls the change to it."""

    entry: Entry
    source: str
    change: str | None


def _plan(
    files: dict[Path, list[Entry]], update: Update, tied: bool, dtype: torch.dtype | None
) -> tuple[dict[Path, list[_Line]], bool]:
    """What is written into each file, and whether head and embedding, one weight in the base, come out as two."""
    names = {entry.name for entries in files.values() for entry in entries}
    tied = tied and _HEAD not in names and _EMBEDDING in names
    if tied and update.keeps_tie:
        _join_whole(update)
    untied = tied and bool({_HEAD, _EMBEDDING} & update.names) and not (update.keeps_tie and _EMBEDDING in update.whole)
    plan = {}
    for path, entries in files.items():
        lines = [_Line(_as(entry, entry.name, dtype), entry.name, _change_of(entry.name, update)) for entry in entries]
        for entry in entries:
            if untied and entry.name == _EMBEDDING:
                lines.append(_Line(_as(entry, _HEAD, dtype), _EMBEDDING, _HEAD if _HEAD in update.names else None))
        plan[path] = lines
    return plan, untied


def _join_whole(update: Update) -> None:
    """An embedding and a head that were fully trained as one weight: the embedding is used for both."""
    if _HEAD in update.whole:
        embedding = update.whole.setdefault(_EMBEDDING, update.whole[_HEAD])
        if torch.equal(embedding, update.whole[_HEAD]):
            del update.whole[_HEAD]


def _as(entry: Entry, name: str, dtype: torch.dtype | None) -> Entry:
    own = dtype if dtype is not None and entry.dtype.is_floating_point else entry.dtype
    return Entry(name, own, entry.shape)


def _change_of(stored: str, update: Update) -> str | None:
    """What the adapter calls a weight: as the base's file does, or with the model's prefix, which some leave out."""
    return next((name for name in (stored, f"model.{stored}") if name in update.names), None)


def _check_all_used(plan: dict[Path, list[_Line]], update: Update, base: Path) -> None:
    used = {line.change: line for lines in plan.values() for line in lines if line.change is not None}
    hint = "give the base model that it was trained on: --base NAME"
    for name in sorted(update.names):
        if name not in used:
            raise ArtifactError(f"the adapter changes `{name}`, which `{base}` does not have", hint=hint)
        parts = update.layers.get(name)
        shape = (len(parts.b), parts.a.shape[1]) if parts is not None else tuple(update.whole[name].shape)
        if shape != used[name].entry.shape:
            raise ArtifactError(f"the adapter's `{name}` is {shape}, the base's {used[name].entry.shape}", hint=hint)


def _merge_one(weight: Tensor, line: _Line, update: Update, counts: Counts) -> Tensor:
    if line.change is None:
        return weight.to(line.entry.dtype)
    parts = update.layers.get(line.change)
    wanted = update.whole[line.change].float() if parts is None else parts.merged(update.under.get(line.change, weight))
    written = nearest(wanted, weight, line.entry.dtype)
    counts.add(weight, wanted, written)
    return written


def copy_rest(base: Path, folder: Path) -> list[str]:
    """Copy what else a model folder has, such as the generation settings. Never code.

    Returns:
        files that were left out because they are code.
    """
    left = []
    for file in sorted(base.iterdir()):
        if not file.is_file() or file.name.endswith(_WEIGHTS) or file.name == "config.json":
            continue
        if file.suffix == ".py":
            left.append(file.name)
        else:
            shutil.copyfile(file, folder / file.name)
    return left
