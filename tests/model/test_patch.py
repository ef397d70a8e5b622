"""A patched model is transformers' model with PEFT's adapter: losses and gradients of packed and padded rows, by either path."""

from __future__ import annotations

import copy
import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)  # fmt: skip

import tiny
from kernels_on_cpu import interpreted
from prepared import write_prepared
from qlora_fast.data.batch import Row, packed_row, padded_row
from qlora_fast.data.dataset import open_prepared
from qlora_fast.model import patched_modules
from qlora_fast.model.attention import NAME
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.fused_lora import fuse
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.model.patch import patch, report_of, speed_up
from qlora_fast.train.forward import Forward
from tiny import _SHAPE as SHAPE

CPU = torch.device("cpu")


def _family(kind: Any, config: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        made = config(**{**SHAPE, "head_dim": 8, "pad_token_id": 0})
        made._attn_implementation = NAME
        torch.manual_seed(0)
        model: nn.Module = kind(made)
        return model.requires_grad_(False).eval()

    return make


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    **tiny.MODELS,
    "qwen3 with biases, an own head, no groups": lambda: tiny.qwen3(
        attention_bias=True, tie_word_embeddings=False, num_key_value_heads=4
    ),
    "llama with a tied head, one group": lambda: tiny.llama(tie_word_embeddings=True, num_key_value_heads=1),
    "mistral": _family(MistralForCausalLM, MistralConfig),
    "qwen2": _family(Qwen2ForCausalLM, Qwen2Config),
    "smollm3": _family(SmolLM3ForCausalLM, SmolLM3Config),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Row]]:
    """One update as a packed row and as padded ones: samples of one token, of none supervised, and ordinary ones."""
    rng = np.random.default_rng(1)
    samples = [(rng.integers(3, tiny.VOCAB, n).tolist(), spans) for n, spans in (
        (9, [(3, 9)]), (1, []), (5, []), (14, [(2, 5), (9, 14)]), (2, [(1, 2)]),
    )]  # fmt: skip
    data = open_prepared(write_prepared(tmp_path_factory.mktemp("patch") / "p", samples))
    return {"packed": [packed_row(data, range(5))], "padded": [padded_row(data, [0, 1, 2]), padded_row(data, [3, 4])]}


def outcome(model: nn.Module, adapter: Adapter, rows: list[Row]) -> tuple[Tensor, Tensor]:
    """(loss, gradient of the flat adapter)."""
    forward = Forward(model, CPU)
    adapter.discard()
    total = torch.zeros(())
    for row in rows:
        torch.manual_seed(2)
        loss = forward.loss_sum(row)
        (loss / 7).backward()
        adapter.collect()
        total = total + loss.detach()
    return total, adapter.gradient.clone()


def adapted(model: nn.Module, **spec: Any) -> tuple[nn.Module, Adapter]:
    peft = add_lora(model, LoraSpec(**{"rank": 8, "alpha": 16, **spec}), seed=0, kernels="off")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=generator)
    return peft, Adapter(peft)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("kernels", [False, True], ids=["plain torch", "kernels"])
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradient_are_those_of_transformers_and_peft(
    name: str, kernels: bool, rows: dict[str, list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels:
        interpreted(monkeypatch)
    model, adapter = adapted(FAMILIES[name]())
    wanted = {kind: outcome(model, adapter, some) for kind, some in rows.items()}
    fuse(model, kernels=kernels)
    report = patch(model, kernels=kernels)
    assert sum(report.modules.values()) == (9 if kernels else 4) + (4 if kernels and "qwen3" in name else 0)
    assert not report.kept
    model.speed_up = report  # type: ignore[assignment]
    for kind, some in rows.items():
        loss, gradient = outcome(model, adapter, some)
        assert relative(loss, wanted[kind][0]) < 1e-5
        assert relative(gradient, wanted[kind][1]) < 1e-5
    assert relative(wanted["packed"][1], wanted["padded"][1]) < 1e-5


SPECS: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.3},
    "dora": {"dora": True},
    "rslora": {"rslora": True},
    "pissa": {"pissa": 4},
    "some layers": {"target": ["q_proj", "v_proj", "down_proj"]},
    "whole embedding and norm": {"also": ["embed_tokens", "norm"]},
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_every_kind_of_adapter_gives_what_peft_gives(
    name: str, checkpointing: bool, rows: dict[str, list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreted(monkeypatch)
    torch.manual_seed(0)
    base = tiny.qwen3()
    if checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    model, adapter = adapted(base, **SPECS[name])
    wanted = outcome(model, adapter, rows["packed"])
    fuse(model, kernels=True)
    model.speed_up = patch(model, kernels=True)  # type: ignore[assignment]
    for ours, theirs in zip(outcome(model, adapter, rows["packed"]), wanted, strict=True):
        assert relative(ours, theirs) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_it_is_as_near_to_the_exact_gradient_as_they_are(
    dtype: torch.dtype, rows: dict[str, list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreted(monkeypatch)
    exact_model, exact_adapter = adapted(tiny.qwen3())
    exact = outcome(exact_model, exact_adapter, rows["packed"])
    model, adapter = adapted(tiny.qwen3().to(dtype))
    theirs = outcome(model, adapter, rows["packed"])
    fuse(model, kernels=True)
    model.speed_up = patch(model, kernels=True)  # type: ignore[assignment]
    ours = outcome(model, adapter, rows["packed"])
    bound = 3e-2 if dtype == torch.bfloat16 else 4e-3
    for own, their, true in zip(ours, theirs, exact, strict=True):
        assert relative(own, true) < bound
        assert relative(own, true) < 1.5 * relative(their, true) + 1e-4


def test_gemma_gets_its_norms_and_keeps_the_rest(rows: dict[str, list[Row]], monkeypatch: pytest.MonkeyPatch) -> None:
    interpreted(monkeypatch)
    config = Gemma3TextConfig(**{**SHAPE, "head_dim": 8, "sliding_window": 64, "pad_token_id": 0})
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model, adapter = adapted(Gemma3ForCausalLM(config).requires_grad_(False).eval())
    wanted = outcome(model, adapter, rows["padded"])
    report = patch(model, kernels=True)
    assert set(report.modules) == {"Gemma3RMSNorm"}
    for ours, theirs in zip(outcome(model, adapter, rows["padded"]), wanted, strict=True):
        assert relative(ours, theirs) < 1e-5


def test_a_class_that_computes_something_else_keeps_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.qwen3 import modeling_qwen3 as source

    plain = source.Qwen3MLP.forward
    monkeypatch.setattr(source.Qwen3MLP, "forward", lambda self, x: plain(self, x) * 2)
    monkeypatch.setattr(patched_modules, "_agreed", {})
    model = tiny.adapted(tiny.qwen3())
    report = patch(model, kernels=False)
    assert report.kept == {"Qwen3MLP"}
    assert dict(report.modules) == {"Qwen3Attention": 2}


def test_another_activation_is_kept() -> None:
    model = tiny.adapted(tiny.llama(hidden_act="gelu"))
    assert dict(patch(model, kernels=False).modules) == {"LlamaAttention": 2}


def test_a_cache_is_left_to_transformers() -> None:
    ids = torch.randint(0, tiny.VOCAB, (1, 9), generator=torch.Generator().manual_seed(0))
    model = tiny.adapted(tiny.qwen3(attention="sdpa")).eval()
    other = copy.deepcopy(model)
    patch(model, kernels=False)
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(model.generate(input_ids=ids, **options), other.generate(input_ids=ids, **options))  # type: ignore[operator]


def test_off_keeps_everything_and_says_so() -> None:
    model = add_lora(tiny.qwen3(), LoraSpec(4, 8), seed=0, kernels="off")
    torchs = {"scores": "torch", "training": "torch", "why": "kernels: off"}
    off = {"triton": False, "lora_layers": 0, "products": torchs, "modules": {}, "reason": "kernels: off"}
    assert report_of(model).described() == off
    assert all(type(m) is getattr(sys.modules[type(m).__module__], type(m).__name__) for m in model.modules())


def test_a_patched_model_that_is_let_go_frees_its_memory_at_once() -> None:
    model = tiny.adapted(tiny.qwen3())
    patch(model, kernels=False)
    attention = next(m for n, m in model.named_modules() if n.endswith("self_attn"))
    gc.collect()
    seen = weakref.ref(attention)
    gc.disable()
    try:
        del model, attention
        assert seen() is None
    finally:
        gc.enable()


def test_auto_on_a_cpu_fuses_each_layer_alone() -> None:
    model = add_lora(tiny.qwen3(), LoraSpec(4, 8), seed=0)
    report = report_of(model).described()
    torchs = {"scores": "torch", "training": "torch", "why": "no frozen layer is 256 wide or wider"}
    fused = {"triton": False, "lora_layers": 14, "products": torchs, "modules": {}, "reason": "the device is a CPU"}
    assert report == fused
    assert speed_up(model).fused == 0, "nothing is fused twice"
