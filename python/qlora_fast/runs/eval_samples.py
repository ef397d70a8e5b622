"""What an evaluation found for each sample, as one file: ``eval_samples.jsonl``. No torch.

A mean hides whether two runs differ or only their noise does. Sample by sample the noise that both share falls out, so
this file is what ``qlora-fast compare`` works on. A sample is known by what it is, not by where it stands: its id is a
hash of its tokens and of what is learned of them, so two runs pair only where they were asked the same.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qlora_fast import atomic_io
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.errors import ArtifactError


@dataclass(frozen=True, slots=True)
class Samples:
    """The scores of n samples, in the order of their file; ``loss`` is a sum over ``tokens`` supervised tokens."""

    ids: list[str]
    loss: NDArray[np.float64]
    tokens: NDArray[np.int64]
    right: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mean_loss(self) -> float:
        """Σ loss ÷ Σ tokens: what ``eval_loss`` is."""
        return float(self.loss.sum() / max(int(self.tokens.sum()), 1))


def sample_id(dataset: PreparedDataset, index: int) -> str:
    """A hash of a sample's tokens and supervised spans."""
    sha = hashlib.sha256(np.ascontiguousarray(dataset.ids(index)).tobytes())
    sha.update(b"\0" + np.ascontiguousarray(dataset.spans(index)).tobytes())
    return sha.hexdigest()[:16]


def write_samples(
    path: Path,
    dataset: PreparedDataset,
    indices: NDArray[np.int64],
    loss: NDArray[np.float64],
    right: NDArray[np.float64],
) -> None:
    """One line a sample: where it comes from, its id, and its scores."""
    lines = []
    for i, index in enumerate(indices.tolist()):
        origin, tokens = dataset.origin(index), int(dataset.supervised[index])
        line = {
            "file": origin.file,
            "line": origin.line,
            "row": origin.row,
            "id": sample_id(dataset, index),
            "tokens": tokens,
            "loss": float(loss[i]),
            "mean_loss": float(loss[i]) / max(tokens, 1),
            "accuracy": float(right[i]) / max(tokens, 1),
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    atomic_io.write_text(path, "".join(lines))


def read_samples(path: Path) -> Samples:
    """What :func:`write_samples` wrote.

    Raises:
        ArtifactError: the file is not such a file.
    """
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        tokens = np.array([entry["tokens"] for entry in entries], dtype=np.int64)
        return Samples(
            [str(entry["id"]) for entry in entries],
            np.array([entry["loss"] for entry in entries], dtype=np.float64),
            tokens,
            np.array([entry["accuracy"] for entry in entries], dtype=np.float64) * tokens,
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"`{path}` is damaged: {error}", hint="make it again with `qlora-fast evaluate RUN`"
        ) from error
