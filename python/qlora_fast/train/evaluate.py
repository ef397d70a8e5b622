"""Loss on data that is not trained on, weighted by token: independent of batch size, order and packing."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from qlora_fast.data.batch import Batches
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.plan import pack
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.forward import Forward

OnSamples = Callable[[NDArray[np.float64], NDArray[np.float64]], None]
"""Called with Σ cross-entropy and correctly predicted tokens of each sample."""


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """How the rows are cut; the result does not depend on it (but ``eval_loss_hf`` does, as in transformers)."""

    batch_size: int
    max_tokens_per_row: int
    packed: bool
    accuracy: bool


def evaluate(
    forward: Forward,
    dataset: PreparedDataset,
    indices: NDArray[np.int64],
    options: EvalOptions,
    *,
    ranks: Ranks | None = None,
    on_samples: OnSamples | None = None,
    on_row: Callable[[int], None] = lambda _: None,
    groups: Mapping[str, NDArray[np.int64]] | None = None,
) -> dict[str, float]:
    """``eval_loss`` (Σ/N over all supervised tokens), ``perplexity``, and the value transformers would report.

    ``eval_loss_hf`` is the mean of the means of batches of ``batch_size`` in order, each weighted by its samples: what the
    guide's figures are. The ranks share the rows.

    Args:
        groups: positions in ``indices`` by a name; each has an ``eval_<name>_loss`` of its own beside that of all.
    """
    started = time.perf_counter()
    total, right = sample_scores(forward, dataset, indices, options, ranks=ranks, on_row=on_row)
    if on_samples is not None:
        on_samples(total, right)
    tokens = dataset.supervised[indices].astype(np.float64)
    loss = float(total.sum() / max(tokens.sum(), 1))
    starts = np.arange(0, len(indices), options.batch_size)
    sizes = np.diff([*starts, len(indices)])
    means = np.add.reduceat(total, starts) / np.maximum(np.add.reduceat(tokens, starts), 1)
    seconds = time.perf_counter() - started
    result = {
        "eval_loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "eval_loss_hf": float((means * sizes).sum() / sizes.sum()),
        "eval_tokens": float(tokens.sum()),
        "eval_runtime": seconds,
        "eval_samples_per_second": len(indices) / seconds,
    }
    if options.accuracy:
        result["eval_accuracy"] = float(right.sum() / max(tokens.sum(), 1))
    for name, own in (groups or {}).items():
        own_tokens = max(tokens[own].sum(), 1)
        result[f"eval_{name}_loss"] = float(total[own].sum() / own_tokens)
        if options.accuracy:
            result[f"eval_{name}_accuracy"] = float(right[own].sum() / own_tokens)
    return result


def by_source(
    dataset: PreparedDataset, indices: NDArray[np.int64], names: Sequence[str]
) -> dict[str, NDArray[np.int64]]:
    """Positions in ``indices`` by the dataset that they come from; nothing where there is only one.

    Args:
        names: what the user called the datasets; where there are as many of both, they are the names.
    """
    groups = {name: np.flatnonzero(np.isin(indices, ids)) for name, ids in dataset.by_dataset().items()}
    groups = {name: found for name, found in groups.items() if len(found)}
    if len(groups) < 2:
        return {}
    called = names if len(names) == len(groups) else list(groups)
    words = [re.sub(r"\W+", "_", Path(name).name.split(".")[0]) or "data" for name in called]
    unique = [word if words.count(word) == 1 else f"{word}_{n}" for n, word in enumerate(words, 1)]
    return dict(zip(unique, groups.values(), strict=True))


def sample_scores(
    forward: Forward,
    dataset: PreparedDataset,
    indices: NDArray[np.int64],
    options: EvalOptions,
    *,
    ranks: Ranks | None = None,
    on_row: Callable[[int], None] = lambda _: None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Σ cross-entropy and correctly predicted tokens of each sample, both (n,), in the order of ``indices``."""
    scores, done = np.zeros((2, len(indices))), 0
    batches, ranks = Batches(dataset, indices, options.packed), ranks or Ranks()
    with forward.scoring():
        rows = _rows(dataset, indices, options)
        for first in range(0, len(rows), ranks.world):
            if first + ranks.rank >= len(rows):
                forward.idle(training=False)
                continue
            row_ids = rows[first + ranks.rank]
            pair = forward.token_losses(batches.row(row_ids))
            owner = np.repeat(row_ids, dataset.supervised[indices[row_ids]])
            for score, values in zip(scores, pair, strict=True):
                score += np.bincount(owner, weights=values.double().cpu().numpy(), minlength=len(indices))
            done += len(row_ids)
            on_row(done)
    if ranks.world > 1:
        shared = torch.from_numpy(scores).to(forward.device)
        ranks.all_reduce(shared)
        scores = shared.cpu().numpy()
    return scores[0], scores[1]


def _rows(dataset: PreparedDataset, indices: NDArray[np.int64], options: EvalOptions) -> list[NDArray[np.int64]]:
    """Positions in ``indices`` that share a row: packed to the budget, or sorted by length and cut."""
    lengths = np.ascontiguousarray(dataset.lengths[indices], dtype=np.uint32)
    if options.packed:
        ids, offsets = pack(lengths, options.max_tokens_per_row)
        return [ids[a:b] for a, b in pairwise(offsets)]
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    return [order[i : i + options.batch_size] for i in range(0, len(order), options.batch_size)]
