"""The fused product is PEFT's: value, gradients, dropout, 4 bits, and every way around it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from qlora_fast.model.fused_lora import FusedLora, fuse
from qlora_fast.model.lora import LoraSpec, add_lora

IDS = torch.randint(0, tiny.VOCAB, (2, 11), generator=torch.Generator().manual_seed(0))


def variants(model: nn.Module) -> list[dict[str, Any]]:
    return [v for m in model.modules() if (v := getattr(m, "lora_variant", None)) is not None]


def outcome(model: nn.Module) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = None
    logits: Tensor = model(IDS, use_cache=False).logits
    logits.square().mean().backward()
    gradient = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
    return logits.detach(), gradient


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("kind", tiny.MODELS)
def test_it_computes_what_peft_computes(kind: str, dropout: float) -> None:
    model = tiny.adapted(tiny.MODELS[kind](), dropout=dropout)
    assert all(isinstance(v["default"], FusedLora) for v in variants(model))
    ours = outcome(model)
    for variant in variants(model):
        variant.clear()
    theirs = outcome(model)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.linalg.vector_norm(a - b) < 1e-5 * torch.linalg.vector_norm(b)


def test_bf16_rounds_less_than_peft_not_more() -> None:
    exact = outcome(tiny.adapted(tiny.qwen3()))
    model = tiny.adapted(tiny.qwen3()).bfloat16()
    ours = outcome(model)
    for variant in variants(model):
        variant.clear()
    theirs = outcome(model)
    error = [float((part[1].float() - exact[1]).norm() / exact[1].norm()) for part in (ours, theirs)]
    assert error[0] < 0.05
    assert error[0] < 1.5 * error[1]


def test_a_base_layer_with_a_bias_is_right_too() -> None:
    model = tiny.adapted(tiny.qwen3(attention_bias=True))
    ours = outcome(model)
    for variant in variants(model):
        variant.clear()
    theirs = outcome(model)
    assert torch.allclose(ours[0], theirs[0], atol=1e-5)
    assert torch.allclose(ours[1], theirs[1], rtol=1e-4, atol=1e-7)


def test_the_frozen_input_needs_no_gradient() -> None:
    # The first layer's input is the embedding, which is frozen.
    model = add_lora(tiny.qwen3(num_hidden_layers=1), LoraSpec(2, 4, target=["q_proj"]), seed=0)
    assert len(outcome(model)[1]) > 0


def test_fusing_twice_changes_nothing_and_other_variants_are_left_alone() -> None:
    model = tiny.adapted(tiny.qwen3())
    before = [v["default"] for v in variants(model)]
    assert fuse(model) == 0
    assert [v["default"] for v in variants(model)] == before
