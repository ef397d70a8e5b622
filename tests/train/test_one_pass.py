"""AdamW in one launch makes the steps of torch's fused one, and their checkpoints are exchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny
from kernels_on_cpu import interpreted
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.train.optimizer import AdamW, AdamWOptions

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "LoRA+ and weight decay": {"ratios": {"b": 4.0}, "weight_decay": 0.1},
    "never clipped": {"max_grad_norm": 0.0},
    "scaled loss": {"scaled": True},
}


def pair(dtype: torch.dtype, options: AdamWOptions) -> list[tuple[Adapter, AdamW]]:
    adapters = [Adapter(tiny.adapted(tiny.qwen3().to(dtype))) for _ in range(2)]
    return [(a, AdamW(a, options, kernels=ours)) for a, ours in zip(adapters, (True, False), strict=True)]


def give(adapter: Adapter, step: int, optimizer: AdamW) -> None:
    scale = 1.0 if optimizer.scale is None else float(optimizer.scale.value)
    generator = torch.Generator().manual_seed(step)
    adapter.gradient.copy_(torch.randn(adapter.gradient.shape, generator=generator) * scale)
    if step == 3:
        adapter.gradient[7] = torch.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIONS)
def test_six_steps_end_at_the_same_weights(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreted(monkeypatch)
    both = pair(dtype, AdamWOptions(**OPTIONS[name]))
    start = both[0][0].weights.clone()
    for step in range(6):
        if step == 4:  # each continues with what the other remembers
            ours, theirs = (optimizer.tensors() for _, optimizer in both)
            both[0][1].load(theirs)
            both[1][1].load(ours)
        norms = []
        for adapter, optimizer in both:
            give(adapter, step, optimizer)
            norms.append(optimizer.step(1e-2))
            assert not adapter.gradient.any()
            assert torch.equal(adapter.seen, adapter.weights.to(dtype))
        assert norms[0].isfinite() == norms[1].isfinite()
    (ours_, _), (theirs_, _) = both
    moved = theirs_.weights - start
    assert moved.norm() > 0.1
    assert (ours_.weights - theirs_.weights).norm() < 1e-5 * moved.norm()


def test_its_state_has_the_names_and_the_size_of_torchs() -> None:
    ours, theirs = (optimizer for _, optimizer in pair(torch.float32, AdamWOptions(ratios={"b": 2.0})))
    assert {k: v.shape for k, v in ours.tensors().items()} == {k: v.shape for k, v in theirs.tensors().items()}
    assert ours.nbytes() == theirs.nbytes()
