"""``max_tokens_per_row: auto`` on this machine: memory is measured with a short row, the ranks agree, and what was chosen is tried."""

from __future__ import annotations

from qlora_fast.config import Config
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.model.lora import keep_activations, recompute
from qlora_fast.train import memory_usage, row_budget
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.forward import Forward
from qlora_fast.train.memory_probe import need_of
from qlora_fast.train.row_budget import RowBudget


def measured(
    config: Config, forward: Forward, dataset: PreparedDataset, whole: int, longest: int, kept: int | None, ranks: Ranks
) -> RowBudget:
    """The budget of a run, the same on all ranks.

    Args:
        whole: tokens of the longest row when each optimizer step is one row on each device.
        longest: tokens of the longest sample. kept: the budget of the checkpoint that the run resumes from.
    """
    gpu = forward.device.type == "cuda"
    need = need_of(forward, dataset, packed=True)
    free = memory_usage.available(forward.device)  # behind the first pass: a CPU may have rounded weights for it
    if kept is not None and not ranks.any(free is not None and need(min(kept, whole)) > free):
        return RowBudget(kept, "as in the checkpoint")
    if free is None:
        fits = whole
    else:
        least = row_budget.floor(whole, longest, gpu=gpu)
        fits = -ranks.most(-row_budget.largest(whole, need, free))
        if fits < least and config.gradient_checkpointing == "auto":
            recompute(forward.model)
            # While a layer is computed again, it keeps what all of them do otherwise.
            again, layers = need_of(forward, dataset, packed=True), forward.layers
            keep_activations(forward.model)
            fits = row_budget.largest(whole, lambda tokens: again(tokens) + need(tokens) / layers, free)
    return row_budget.chosen(whole, longest, -ranks.most(-fits), gpu=gpu)


def shorter(row_tokens: int, longest: int) -> RowBudget | None:
    """The budget to try when a row of ``row_tokens`` tokens did not fit; None if there is no shorter one."""
    tokens = max(longest, row_tokens // 2)
    return RowBudget(tokens, "longer rows did not fit into memory when tried") if tokens < row_tokens else None
