"""What a result depends on: settings, data, base model. A checkpoint stores it, and a resumed run must have the same.

The base model's weights are hashed whole (SHA-256 of every file), not sampled: a changed byte anywhere is another base model.
A hash is remembered until the file changes (:mod:`~qlora_fast.hub.cache`), so that a run after the first one costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qlora_fast.config import Config
from qlora_fast.config.keys import KEYS, about, affecting
from qlora_fast.config.paths import settled_base
from qlora_fast.data.selection import RunData
from qlora_fast.errors import ArtifactError, ConfigError
from qlora_fast.hub.cache import of_each, remembered_sha256
from qlora_fast.hub.untrusted import weight_files
from qlora_fast.train.distributed import Ranks

log = logging.getLogger(__name__)

Identity = dict[str, Any]
"""A flat mapping from names to plain JSON values."""
EFFECTIVE_BATCH = "samples_per_update"
"""What batch, accumulation and processes come to. How they share it is free to change."""
ROW_BUDGET = "max_tokens_per_row"
"""As a number, whatever the config says: `auto` may come to another one elsewhere."""
PRODUCTS = "products"
"""How a CPU multiplied with frozen weights; see :mod:`qlora_fast.model.products`. A resumed run takes it over."""
COMPILED = "compiled_layers"
"""Whether the decoder layers were compiled; see :mod:`qlora_fast.train.compiling`. A resumed run takes it over."""
FILES = ("base_weights", "base_config", "generation_config", "data", "training_samples", "eval_data")
"""The parts of an identity that are hashes of files; run.json has them too."""
_ADDED_LATER = {"base_weights", "base_config", "generation_config", "eval_data", "torch_compile"}
"""Not compared with a checkpoint that does not have them: an earlier version wrote it."""
_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy", "safetensors")
_LARGE = 2 * 10**9


def identity_of(config: Config, data: RunData, model_path: str, ranks: Ranks) -> Identity:
    """Everything that a resumed run must have in common with the run that it resumes.

    Args:
        model_path: where the base model was loaded from: a local folder, or a name on the Hub.

    Raises:
        ArtifactError: two processes have different data or base models.
    """
    # The data is compared by its fingerprint, the batch by its size; nothing else changes what is trained.
    settings = {name: getattr(config, name) for name in affecting("data", "learning", "arithmetic")}
    own = {
        **settings,
        ROW_BUDGET: data.plans.max_tokens_per_row,
        EFFECTIVE_BATCH: data.plans.samples_per_update,
        "data": data.train.fingerprint,
        "training_samples": _short_hash(data.train_ids),
        "eval_data": None if data.evals is None else f"{data.evals.fingerprint[:16]}-{_short_hash(data.eval_ids)}",
        **base_identity(model_path),
    }
    _check_same_files(ranks, own)
    return own


def library_versions() -> dict[str, str]:
    """Versions of the libraries that compute. Another version may round otherwise: noted at resume, not refused."""
    return {name: version(name) for name in _LIBRARIES}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``name: before → now`` for everything of an identity in which an earlier one differs."""
    earlier, plain = dict(before), json.loads(json.dumps(now))
    # Earlier versions stored the base as it was typed, and some keys that change nothing.
    if isinstance(base := earlier.get("model_name_or_path"), str):
        earlier["model_name_or_path"] = settled_base(base)
    if earlier.get(ROW_BUDGET) is None:  # of a version that stored what the config said
        earlier[ROW_BUDGET] = earlier.get("cutoff_len")
    known = set(plain) - {name for name in _ADDED_LATER if name not in earlier} - {PRODUCTS, COMPILED}
    if earlier.get("packing") == plain.get("packing") == "exact":
        # An exact update is its samples; into how many rows they are split changes memory and speed alone.
        known.discard(ROW_BUDGET)
    names = sorted(known, key=lambda name: (name in FILES, name))  # settings first: they may be why a hash differs
    return [f"{n}: {_shown(earlier.get(n))} → {_shown(plain[n])}" for n in names if earlier.get(n) != plain[n]]


def other_settings(before: Mapping[str, Any], config: Config) -> bool:
    """Whether an earlier identity is of a run with other settings, as far as they are known before data and base are read."""
    own = {name: getattr(config, name) for name in affecting("learning", "arithmetic") if name in before}
    return bool(differences(before, {name: value for name, value in own.items() if name != ROW_BUDGET}))


def base_identity(model_path: str) -> Identity:
    """Hashes of a base model's weights, of its config.json and of its generation_config.json (None: it has none)."""
    folder = _folder(model_path)
    files = weight_files(folder)
    total = sum(file.stat().st_size for file in files)
    if total > _LARGE:
        log.info("hashing the base model's weights (remembered until a file changes)")
    hashes = of_each(remembered_sha256, files, total)
    together = hashlib.sha256("".join(f"{f.name} {h}\n" for f, h in zip(files, hashes, strict=True)).encode())
    return {
        "base_weights": together.hexdigest(),
        "base_config": _json_hash(folder / "config.json"),
        "generation_config": _json_hash(folder / "generation_config.json"),
    }


def check_settings(config: Config, ranks: Ranks) -> None:
    """Compare with rank 0 every setting that must be alike, before the ranks do anything together that depends on one.

    Raises:
        ConfigError: this rank has other settings.
    """
    # These affect no result, but a rank that gathers, measures or resumes waits for the others to do so too.
    names = {*affecting("data", "learning", "arithmetic", "batch", "result"), "shard_base", "offload_base", ROW_BUDGET}
    # Where things lie may differ from machine to machine; what they are must not.
    own = {name: getattr(config, name) for name in sorted(names) if not about(name).path}
    own["resume_from_checkpoint"] = bool(config.resume_from_checkpoint)
    different, listed = _unlike_first(own, ranks)
    if different:
        raise ConfigError(
            f"rank {ranks.rank} has other settings than rank 0 ({listed})",
            hint=f"start every process with the same config and the same {different[0]}",
        )


def check_same_start(config: Config, weights: Tensor, ranks: Ranks) -> None:
    """Compare with rank 0 the adapter that training begins or resumes with: only gradients are exchanged afterwards.

    Args:
        weights: of the adapter, as one vector.

    Raises:
        ArtifactError: this rank has another one.
    """
    if ranks.world == 1:
        return
    digest = hashlib.sha256(weights.detach().cpu().numpy().data).hexdigest()
    different, listed = _unlike_first({"adapter": digest}, ranks)
    if not different:
        return
    hint = "start every machine with the same versions of torch and PEFT"
    if config.adapter_name_or_path is not None:
        hint = "give every machine the same files under adapter_name_or_path"
    elif config.pissa_init:
        hint = "these GPUs take the base's weights apart differently: leave out pissa_init, or start all ranks on the same kind"
    raise ArtifactError(f"rank {ranks.rank} starts from another adapter than rank 0 ({listed})", hint=hint)


def _check_same_files(ranks: Ranks, own: Identity) -> None:
    """Compare with rank 0 what the files hold that the ranks have read.

    Raises:
        ArtifactError: this rank has other data, or another base model.
    """
    different, listed = _unlike_first({name: value for name, value in own.items() if name not in KEYS}, ranks)
    if not different:
        return
    if set(different) & {"data", "training_samples", "eval_data"}:
        raise ArtifactError(
            f"rank {ranks.rank} prepared other data than rank 0 ({listed})",
            hint="give every machine the same files under `dataset` and `eval_dataset`, and the same tokenizer, or share the "
            "folder of prepared_dir",
        )
    raise ArtifactError(
        f"rank {ranks.rank} loaded another base model than rank 0 ({listed})",
        hint="give every machine the same files under model_name_or_path",
    )


def _unlike_first(own: Mapping[str, Any], ranks: Ranks) -> tuple[list[str], str]:
    """The names of what differs from rank 0's, and both values of each, for a message."""
    plain = json.loads(json.dumps(own))
    first = json.loads(ranks.from_first(lambda: json.dumps(plain)))
    different = [name for name in plain if plain[name] != first.get(name)]
    return different, ", ".join(f"{n}: {_shown(first.get(n))} → {_shown(plain[n])}" for n in different)


def _folder(model_path: str) -> Path:
    """The local folder of a model that has just been loaded."""
    path = Path(model_path)
    if path.is_dir():
        return path
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model_path, "config.json")
    return Path(cached).parent if isinstance(cached, str) else path


def _json_hash(path: Path) -> str | None:
    """Hash of a JSON file's content: not of its layout."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    with suppress(ValueError, RecursionError):
        content = json.dumps(json.loads(content), sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _short_hash(ids: NDArray[np.int64]) -> str:
    return hashlib.sha256(np.ascontiguousarray(ids).tobytes()).hexdigest()[:16]


def _shown(value: Any) -> str:
    """A value in a message; of a hash the beginning is enough."""
    text = repr(value)
    return text if len(text) <= 60 or not isinstance(value, str) else f"'{value[:12]}…'"
