"""Cross-entropy of one position per row of a logits matrix; the gradient is written over the logits.

For a row of logits z (V values in the model's dtype; everything between is fp32) and its target t::

    m = max z        ℓ = m + ln Σ exp(z − m)        loss = ℓ − z_t        z ← round(exp(z − ℓ) − [v = t])

A negative target marks a row that is not learned from: its loss and its gradient are exactly 0, whatever its logits hold.

One instance per row reads it twice and writes it once; there is no fp32 copy, and nothing is read back to the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qlora_fast.model.kernels.launch import Program, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

_BLOCK = 8192


def reference(logits: Tensor, targets: Tensor, gradient: bool = True) -> Tensor:
    """In plain torch.

    Args:
        logits: (K, V); overwritten with their gradient if ``gradient``. targets: (K,), negative where nothing is learned.

    Returns:
        The losses (K,) in fp32.
    """
    wide = logits.float()
    dead = targets < 0
    wanted = targets.clamp(min=0)[:, None]
    normaliser = torch.logsumexp(wide, dim=-1, keepdim=True)
    losses = (normaliser - wide.gather(1, wanted))[:, 0].masked_fill(dead, 0.0)
    if gradient:
        # d loss / d logits = softmax − one-hot; fp32 logits are overwritten at once.
        slope = (wide.sub_(normaliser) if wide is logits else wide.sub(normaliser)).exp_()
        slope.scatter_add_(1, wanted, torch.full_like(slope[:, :1], -1.0))
        if slope.device.type == "cpu":
            slope.index_fill_(0, dead.nonzero()[:, 0], 0.0)
        else:  # which rows they are is not known on the host
            slope.masked_fill_(dead[:, None], 0.0)
        if slope is not logits:
            logits.copy_(slope)
    return losses


def cross_entropy(logits: Tensor, targets: Tensor, gradient: bool = True) -> Tensor:
    """:func:`reference` in one launch. ``logits`` is contiguous."""
    count, vocabulary = logits.shape
    losses = torch.empty(count, dtype=torch.float32, device=logits.device)
    block = min(_BLOCK, power_of_two(vocabulary))
    arguments = {"logits_ptr": logits, "target_ptr": targets, "loss_ptr": losses, "vocabulary": vocabulary}
    constants = {"BLOCK": block, "GRADIENT": gradient}
    PROGRAM.launch((count,), arguments, constants, warps=max(1, block // 512))
    return losses


def _cross_entropy(logits_ptr, target_ptr, loss_ptr, vocabulary, BLOCK: tl.constexpr, GRADIENT: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(target_ptr + row)
    base = logits_ptr + row * vocabulary
    # Read before anything is written: the reductions below are barriers between the two.
    own = tl.load(base + tl.maximum(target, 0)).to(tl.float32)
    # One maximum and sum per lane; they are brought together once, after the row has been read.
    lane = tl.arange(0, BLOCK)
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        column = start + lane
        z = tl.load(base + column, mask=column < vocabulary, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, z)
        # The smaller of the two against the larger: one exponential, whichever it is. A lane beyond a short row has seen
        # −inf only, and −inf − (−inf) is not a number.
        # A logit that is not a number makes the loss none, as the minimum keeps it.
        lower = tl.minimum(top, z, propagate_nan=tl.PropagateNan.ALL)
        step = tl.exp(lower - tl.where(higher == float("-inf"), 0.0, higher))
        total = tl.where(z > top, total * step + 1.0, total + step)
        top = higher
    peak = tl.max(top, 0)
    normaliser = peak + tl.log(tl.sum(total * tl.exp(top - peak), 0))
    learned = target >= 0
    tl.store(loss_ptr + row, tl.where(learned, normaliser - own, 0.0))
    if GRADIENT:
        for start in range(0, vocabulary, BLOCK):
            column = start + lane
            inside = column < vocabulary
            z = tl.load(base + column, mask=inside, other=float("-inf")).to(tl.float32)
            slope = tl.exp(z - normaliser) - tl.where(column == target, 1.0, 0.0)
            tl.store(base + column, tl.where(learned, slope, 0.0).to(logits_ptr.dtype.element_ty), mask=inside)


PROGRAM = Program(_cross_entropy)
