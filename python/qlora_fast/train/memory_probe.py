"""The longest row of a run, first. What a run needs shows in its first seconds instead of in its third hour.

A forward and a backward pass, no update; the random state is put back, so the run that follows is the same bit for bit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from qlora_fast.config import Config
from qlora_fast.data.batch import Batches, Row, row_of
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.plan import EpochPlan, row_tokens
from qlora_fast.errors import OutOfMemoryError, is_out_of_memory
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.lora import recompute
from qlora_fast.train import memory_usage
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.forward import Forward
from qlora_fast.train.loss import CHUNK_LOGITS

log = logging.getLogger(__name__)

EPOCHS = 8
"""Epochs whose rows are looked through; a plan costs a millisecond or so each."""
_SHORT = 64
"""Tokens that a sample must have to tell what a long row takes."""
_HEADROOM = 1.3
"""A backward pass needs more than what the forward pass kept: the gradients on their way."""


def longest_row(batches: Batches, plan_of_epoch: Callable[[int], EpochPlan], epochs: int) -> Row:
    """The row of the run with the most tokens, padding included."""
    lengths = batches.dataset.lengths[batches.indices]
    best: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))
    for epoch in range(min(epochs, EPOCHS)):
        plan = plan_of_epoch(epoch)
        sizes = row_tokens(plan, lengths, batches.packed)
        largest = int(sizes.argmax())
        if sizes[largest] > best[0]:
            best = int(sizes[largest]), plan.row(largest)
    return batches.row(best[1])


def run_row(forward: Forward, adapter: Adapter, row: Row) -> None:
    """Forward and backward; nothing of it stays."""
    devices = [] if forward.device.type == "cpu" else [forward.device]
    try:
        with torch.random.fork_rng(devices):
            forward.loss_sum(row).backward()  # type: ignore[no-untyped-call]
    finally:
        adapter.discard()
        if forward.stream is not None:
            forward.stream.reset()  # the pass may have failed in the middle of a layer


def probe(
    config: Config, forward: Forward, adapter: Adapter, dataset: PreparedDataset, row: Row, ranks: Ranks | None = None
) -> bool:
    """Run the longest row, with gradient checkpointing if it does not fit otherwise and the config leaves that open.

    Ranks that share the base decide by what the one with the least memory needs, and no row is tried a second time: they pass
    through the layers together.

    Returns:
        Whether activations are recomputed.

    Raises:
        OutOfMemoryError: it does not fit.
    """
    on = config.gradient_checkpointing == "true"
    if config.gradient_checkpointing == "auto":
        need = need_of(forward, dataset, packed=row.cu_seqlens is not None)(row.input_ids.size)
        there = memory_usage.available(forward.device)
        on = there is not None and need > there
        if forward.stream is not None and ranks is not None:
            on = ranks.any(on)
        log.info(
            "gradient checkpointing: %s; the longest row (%s tokens) needs %s without it, %s are free",
            "on" if on else "off", f"{row.input_ids.size:,}", gib(need), "an unknown amount" if there is None else gib(there),
        )  # fmt: skip
        if on:
            recompute(forward.model)
    with explained(config, dataset, row):
        if on or config.gradient_checkpointing == "false" or forward.stream is not None:
            run_row(forward, adapter, row)
        elif not _fits(forward, adapter, row):
            log.info("gradient checkpointing: on after all; the longest row did not fit without it")
            recompute(forward.model)
            on = True
            if forward.device.type == "cuda":
                torch.cuda.empty_cache()
            run_row(forward, adapter, row)
    return on


@contextmanager
def explained(config: Config, dataset: PreparedDataset, row: Row) -> Iterator[None]:
    """Inside, running out of memory is an error that says what to change.

    Raises:
        OutOfMemoryError: in its place.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        samples = "1 sample" if len(row.sample_ids) == 1 else f"{len(row.sample_ids)} samples"
        changes = advice(config, dataset, row)[:3]
        raise OutOfMemoryError(
            f"out of memory; the longest row has {row.input_ids.size:,} tokens ({samples})",
            hint="cheapest first: " + "; or ".join(changes),
        ) from error


def advice(config: Config, dataset: PreparedDataset, row: Row) -> list[str]:
    """What to change to need less memory, the cheapest first, each with what it costs.

    A run that resumes from a checkpoint accepts only the first kind: the rest changes what is learned, and says so.
    """
    tokens, longest = row.input_ids.size, row.max_seqlen
    same, other = [], []
    batch, steps = config.per_device_train_batch_size, config.gradient_accumulation_steps
    if row.cu_seqlens is not None and tokens > longest:
        fewer = max(longest, math.ceil(tokens / 2))
        if config.packing == "exact":
            same.append(f"max_tokens_per_row={fewer} (shorter rows, the same result; a resumed run accepts it)")
        else:  # here an update is a number of rows
            rows = -(-steps * tokens // fewer)
            other.append(f"max_tokens_per_row={fewer} gradient_accumulation_steps={rows} (about the same updates)")
    elif row.cu_seqlens is None and len(row.sample_ids) > 1:
        less = max(1, batch // 2)
        same.append(
            f"per_device_train_batch_size={less} gradient_accumulation_steps={-(-batch * steps // less)} (the same updates)"
        )
    if config.gradient_checkpointing == "false":
        same.append("gradient_checkpointing=true (the same result, half as much computation again)")
    if config.quantization_bit is None:
        other.append("quantization_bit=4 (the base in a quarter of the memory, a little slower and coarser)")
    elif config.quantization_bit == 8:
        other.append("quantization_bit=4 (the base in half of the memory)")
    shorter = max(8, longest // 2)
    cut = float((dataset.lengths > shorter).mean())
    other.append(f"cutoff_len={shorter} (cuts {cut:.1%} of the samples)")
    if config.lora_rank > 8:
        other.append(f"lora_rank={config.lora_rank // 2} (learns less)")
    other.append("a smaller model")
    if config.resume_from_checkpoint:
        other = [f"{change}, in a new run" for change in other]
    return [*same, *other]


def gib(size: float) -> str:
    return f"{size / 2**30:,.2f} GiB"


def _fits(forward: Forward, adapter: Adapter, row: Row) -> bool:
    # A function of its own: an error that is still held keeps everything that its frames do.
    try:
        run_row(forward, adapter, row)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def need_of(forward: Forward, dataset: PreparedDataset, *, packed: bool) -> Callable[[int], float]:
    """Bytes that a row of so many tokens will take, estimated from what autograd keeps of a short one."""
    long_enough = np.flatnonzero(dataset.lengths >= _SHORT)
    chosen = long_enough[dataset.lengths[long_enough].argmin()] if len(long_enough) else dataset.lengths.argmax()
    short = row_of(dataset, [int(chosen)], packed=packed)
    kept = memory_usage.activations(forward, short) / short.input_ids.size
    return lambda tokens: _HEADROOM * kept * tokens + 2 * 4 * CHUNK_LOGITS
