"""Whether a merged model says what base and adapter say: their logits over the same prompts, compared in fp32.

Both are loaded by the libraries that will serve them, not by the code that merged, and one after the other, so that
memory holds one model at a time.

An adapter that was trained on a base of 4 or 8 bits is merged onto the 16-bit one, and answers differently there. By how
much is measured as well; it is what the change of the base costs or gives, no error of the merge, and has no bound.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from qlora_fast.errors import ArtifactError, first_line
from qlora_fast.model.adapter_files import load_adapter
from qlora_fast.model.load import Quantization, eval_as_trained, from_files, load_base, quiet_libraries

log = logging.getLogger(__name__)

EXACT = 1e-4
"""fp32: the largest difference of two logits, as a share of the largest logit."""
KL_16 = 5e-3
"""16 bits: mean KL divergence of the next token, in nats; or, for a large update, the share below of what the update did.

Rounding alone came to 0.0029 for the embedded model after four and five optimizer steps."""
SHARE_16 = 0.05
LOST = 0.5
"""A merge that keeps less than half of what the adapter did has lost it."""


@dataclass(frozen=True, slots=True)
class FromTrained:
    """How far the merged model is from what was trained: the adapter on the quantized base.

    Attributes:
        kl_mean, kl_max: KL(trained ‖ merged) of the next token, nats.
        kl_update: mean KL(trained ‖ quantized base): what the adapter does there.
        same_top: share of positions with the same likeliest token.
    """

    bits: int
    kl_mean: float
    kl_max: float
    kl_update: float
    same_top: float


@dataclass(frozen=True, slots=True)
class Check:
    """How far the merged model is from base and adapter over all positions of the probes.

    Attributes:
        max_difference, largest_logit: of single logits.
        kl_mean, kl_max: KL(adapter ‖ merged) of the next token, nats.
        kl_update: mean KL(adapter ‖ base): what the adapter does at all.
        same_top: share of positions with the same likeliest token.
    """

    positions: int
    max_difference: float
    largest_logit: float
    kl_mean: float
    kl_max: float
    kl_update: float
    same_top: float
    exact: bool
    from_trained: FromTrained | None = None

    @property
    def bound(self) -> float:
        """What ``max_difference`` (exact) or ``kl_mean`` must not exceed."""
        return EXACT * self.largest_logit if self.exact else max(KL_16, SHARE_16 * self.kl_update)

    @property
    def passed(self) -> bool:
        return (self.max_difference if self.exact else self.kl_mean) <= self.bound

    @property
    def lost(self) -> bool:
        """Whether the update is there but did not arrive."""
        return self.kl_update > 1e-6 and self.kl_mean > LOST * self.kl_update


def compare_logits(
    base: Path,
    adapter: Path,
    merged: Path,
    prompts: Sequence[Sequence[int]],
    *,
    exact: bool,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    trained_on: Quantization | None = None,
) -> Check:
    """Run the prompts through both, and through the adapter on the base that it was trained on if that was quantized.

    Args:
        exact: whether the merged weights are fp32, so that nothing but the order of additions differs.
        dtype: that both compute in. fp32 shows the merge alone; a model that does not fit in it takes its own.
    """
    device = device or torch.device("cpu")
    before, wanted = _without_and_with(adapter, _load(base, dtype, device), prompts, device)
    got = _logits(_load(merged, dtype, device), prompts, device)
    if got.shape != wanted.shape:
        raise ArtifactError(f"the merged model has a head of {got.shape[1]} tokens, the base one of {wanted.shape[1]}")
    kl = _kl(wanted, got)
    from_trained = None
    if trained_on is not None:
        try:
            quantized = load_base(str(base), dtype=dtype, device=device, packing="none", quantization=trained_on)
            from_trained = _from_trained(*_without_and_with(adapter, quantized, prompts, device), got, trained_on.bits)
        except (ArtifactError, ImportError, RuntimeError) as error:
            # The merge is right without it: a machine that cannot quantize may still merge.
            log.warning("not compared with the base in %d bits: %s", trained_on.bits, first_line(error))
    return Check(
        positions=len(wanted),
        max_difference=float((wanted - got).abs().max()),
        largest_logit=float(wanted.abs().max()),
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        kl_update=float(_kl(wanted, before).mean()),
        same_top=float((wanted.argmax(-1) == got.argmax(-1)).double().mean()),
        exact=exact,
        from_trained=from_trained,
    )


def _from_trained(before: Tensor, trained: Tensor, merged: Tensor, bits: int) -> FromTrained:
    kl = _kl(trained, merged)
    return FromTrained(
        bits=bits,
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        kl_update=float(_kl(trained, before).mean()),
        same_top=float((trained.argmax(-1) == merged.argmax(-1)).double().mean()),
    )


def _without_and_with(
    adapter: Path, base: nn.Module, prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Logits of a base alone, and with the adapter on it."""
    together: Any = eval_as_trained(load_adapter(base, adapter))
    with together.disable_adapter():
        before = _logits(together, prompts, device)
    return before, _logits(together, prompts, device)


@torch.no_grad()
def _logits(model: nn.Module, prompts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Logits at every position of every prompt, on the host in fp32, (P, V)."""
    rows = [model(input_ids=torch.tensor([list(p)], device=device), use_cache=False).logits[0] for p in prompts]
    return torch.cat([row.float().cpu() for row in rows])


def _kl(wanted: Tensor, got: Tensor) -> Tensor:
    """KL(wanted ‖ got) at each position, in double: it is a difference of nearly equal numbers."""
    p, q = log_softmax(wanted.double(), -1), log_softmax(got.double(), -1)
    return kl_div(q, p, log_target=True, reduction="none").sum(-1)


def _load(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    quiet_libraries()
    return from_files(str(folder), dtype=dtype, attn_implementation="sdpa").to(device).eval()
