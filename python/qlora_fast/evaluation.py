"""Loss on data that is not trained on, weighted by token: independent of batch size, order and packing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qlora_fast import _core
from qlora_fast.data import PreparedDataset, packed_row, padded_row
from qlora_fast.forward import Forward


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """How the rows are cut; the result does not depend on it (but ``eval_loss_hf`` does, as in transformers)."""

    batch_size: int
    max_tokens_per_row: int
    packed: bool
    accuracy: bool


def evaluate(
    forward: Forward, dataset: PreparedDataset, indices: NDArray[np.int64], options: EvalOptions
) -> dict[str, float]:
    """``eval_loss`` (Σ/N over all supervised tokens), ``perplexity``, and the value transformers would report.

    ``eval_loss_hf`` is the mean of the means of batches of ``batch_size`` in order, each weighted by its samples: what the
    guide's figures are.
    """
    was_training = forward.model.training
    forward.model.eval()
    total, right = np.zeros(len(indices)), np.zeros(len(indices))
    for row_ids in _rows(dataset, indices, options):
        make = packed_row if options.packed else padded_row
        row = make(dataset, indices[row_ids])
        losses, correct = forward.token_losses(row)
        counts = dataset.supervised[indices[row_ids]].astype(np.int64).tolist()
        for i, loss, hits in zip(row_ids.tolist(), losses.double().split(counts), correct.split(counts), strict=True):
            total[i], right[i] = float(loss.sum()), float(hits.sum())
    forward.model.train(was_training)
    tokens = dataset.supervised[indices].astype(np.float64)
    loss = float(total.sum() / tokens.sum())
    starts = np.arange(0, len(indices), options.batch_size)
    sizes = np.diff([*starts, len(indices)])
    means = np.add.reduceat(total, starts) / np.add.reduceat(tokens, starts)
    result = {
        "eval_loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "eval_loss_hf": float((means * sizes).sum() / sizes.sum()),
        "eval_tokens": float(tokens.sum()),
    }
    if options.accuracy:
        result["eval_accuracy"] = float(right.sum() / tokens.sum())
    return result


def _rows(dataset: PreparedDataset, indices: NDArray[np.int64], options: EvalOptions) -> list[NDArray[np.int64]]:
    """Positions in ``indices`` that share a row: packed to the budget, or sorted by length and cut."""
    lengths = np.ascontiguousarray(dataset.lengths[indices], dtype=np.uint32)
    if options.packed:
        ids, offsets = _core.pack(lengths, options.max_tokens_per_row)
        return [ids[a:b] for a, b in zip(offsets, offsets[1:], strict=False)]
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    return [order[i : i + options.batch_size] for i in range(0, len(order), options.batch_size)]


