"""No sample sees another: ours is isolated however it is called, the well-known wrong calls are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as plain
from transformers import (
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GemmaConfig,
    GptOssConfig,
    MambaConfig,
    MptConfig,
    Qwen3Config,
    Qwen3NextConfig,
)

import tiny
from qlora_fast.errors import ConfigError
from qlora_fast.model import attention
from qlora_fast.model.attention import NAME, Borders, packed_attention, refuse_unpackable

LENGTHS = (7, 19, 12)
IDS = torch.randint(0, tiny.VOCAB, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))
POSITIONS = torch.cat([torch.arange(n) for n in LENGTHS])[None]
BORDERS = (0, 7, 26, 38)
OURS = {
    "borders": Borders(BORDERS),
    "cu_seq_lens_q": torch.tensor(BORDERS, dtype=torch.int32),
    "max_length_q": max(LENGTHS),
}


@torch.no_grad()
def contamination(model: nn.Module, **call: Any) -> float:
    """Largest difference between the packed logits and those of each sample alone."""
    alone = torch.cat([model(part, use_cache=False).logits for part in IDS.split(LENGTHS, 1)], dim=1)
    packed: Tensor = model(IDS, **call).logits
    return float((packed - alone).abs().max())


@pytest.mark.parametrize("kind", tiny.MODELS)
@pytest.mark.parametrize("cache", [False, True, None], ids=["no cache", "cache", "default"])
def test_our_attention_isolates_samples_however_it_is_called(kind: str, cache: bool | None) -> None:
    model = tiny.MODELS[kind]()
    call = OURS if cache is None else {**OURS, "use_cache": cache}
    assert contamination(model, position_ids=POSITIONS, **call) < 2e-5


@pytest.mark.parametrize("window", [4, 12, 100])
def test_sliding_windows_are_kept_inside_each_sample(window: int) -> None:
    model = tiny.qwen3(use_sliding_window=True, sliding_window=window, max_window_layers=0)
    reference = tiny.qwen3(attention="eager", use_sliding_window=True, sliding_window=window, max_window_layers=0)
    reference.load_state_dict(model.state_dict())
    assert contamination(model, position_ids=POSITIONS, use_cache=False, **OURS) < 2e-5
    with torch.no_grad():
        sample = IDS[:, 7:26]
        assert torch.allclose(
            model(sample, use_cache=False).logits, reference(sample, use_cache=False).logits, atol=2e-5
        )


def test_the_right_call_of_transformers_own_attention_is_isolated() -> None:
    assert contamination(tiny.qwen3(attention="sdpa"), position_ids=POSITIONS, use_cache=False) < 2e-5


@pytest.mark.parametrize(
    "call",
    [
        {"position_ids": POSITIONS},
        {"position_ids": POSITIONS, "use_cache": False, "attention_mask": torch.ones_like(IDS)},
        {"use_cache": False},
    ],
    ids=["use_cache left at its default", "a mask of ones", "no positions"],
)
def test_the_wrong_calls_are_contaminated_so_this_file_would_notice(call: dict[str, Any]) -> None:
    assert contamination(tiny.qwen3(attention="sdpa"), **call) > 0.1


def test_forgetting_the_borders_is_contaminated_too() -> None:
    assert contamination(tiny.qwen3(), position_ids=POSITIONS, use_cache=False) > 0.1


def test_padding_on_the_right_changes_nothing() -> None:
    model = tiny.qwen3()
    with torch.no_grad():
        padded = torch.cat([IDS[:, :7], torch.zeros(1, 5, dtype=torch.int64)], dim=1)
        assert torch.allclose(
            model(padded, use_cache=False).logits[:, :7], model(IDS[:, :7], use_cache=False).logits, atol=2e-5
        )


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (4, 1)])
def test_gradients_are_those_of_each_sample_alone(heads: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, h, sum(LENGTHS), 8) for h in (heads, groups, groups)]
    packed = [torch.randn(s, generator=generator, requires_grad=True) for s in shapes]
    out, _ = packed_attention(nn.Identity(), *packed, None, **OURS)
    weight = torch.randn(out.shape, generator=generator)
    (out * weight).sum().backward()
    start = 0
    for length in LENGTHS:
        part = slice(start, start + length)
        alone = [t.detach()[:, :, part].clone().requires_grad_() for t in packed]
        own, _ = packed_attention(nn.Identity(), *alone, None)
        (own * weight[:, part]).sum().backward()
        assert torch.allclose(own, out[:, part], atol=1e-6)
        for one, many in zip(alone, packed, strict=True):
            assert one.grad is not None
            assert many.grad is not None
            assert torch.allclose(one.grad, many.grad[:, :, part], atol=1e-5)
        start += length


@pytest.mark.parametrize(
    "more",
    [{"softcap": 30.0}, {"s_aux": torch.zeros(4)}, {"position_bias": torch.zeros(1)}, {"is_causal": False}],
    ids=lambda m: next(iter(m)),
)
def test_what_it_cannot_do_exactly_it_refuses(more: dict[str, Any]) -> None:
    q = torch.zeros(1, 4, 6, 8)
    with pytest.raises(ConfigError, match="packed attention cannot run"):
        packed_attention(nn.Identity(), q, q, q, None, **more)


def test_it_refuses_masks_and_caches() -> None:
    q = torch.zeros(1, 4, 6, 8)
    with pytest.raises(ConfigError, match="an attention mask"):
        packed_attention(nn.Identity(), q, q, q, torch.zeros(1, 1, 6, 6))
    with pytest.raises(ConfigError, match="a key/value cache"):
        packed_attention(nn.Identity(), q[:, :, :1], q, q, None)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MambaConfig(num_hidden_layers=1), "linear_attention"),
        (Qwen3NextConfig(num_hidden_layers=4), "linear_attention"),
        (Gemma2Config(num_hidden_layers=2), "soft cap"),
        (BloomConfig(n_layer=1), "attention of its own"),
        (FalconConfig(num_hidden_layers=1), "attention of its own"),
        (MptConfig(n_layers=1), "attention of its own"),
    ],
    ids=["mamba", "hybrid", "soft cap", "bloom", "falcon", "mpt"],
)
def test_models_that_would_mix_samples_are_refused_by_name(config: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        refuse_unpackable(config, "exact")
    assert "packing: none" in str(caught.value.hint)


@pytest.mark.parametrize("config", [Qwen3Config(), GemmaConfig()])
def test_plain_causal_models_are_accepted(config: Any) -> None:
    refuse_unpackable(config, "exact")


def test_sinks_are_refused_when_the_model_asks_for_them() -> None:
    # Nothing in gpt-oss's config says that its attention has sinks: the function finds out.
    from transformers import GptOssForCausalLM

    config = GptOssConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, num_local_experts=2, num_experts_per_tok=1, pad_token_id=0,
    )  # fmt: skip
    config._attn_implementation = NAME
    with pytest.raises(ConfigError, match="s_aux"):
        GptOssForCausalLM(config)(torch.arange(4)[None], use_cache=False)


@pytest.mark.parametrize(("length", "window"), [(9, 4), (40, 4), (40, 7), (41, 13), (40, 39), (8, 4), (17, 1)])
def test_a_long_sample_attends_in_blocks(monkeypatch: pytest.MonkeyPatch, length: int, window: int) -> None:
    """As with one mask of L² numbers, and in the same gradients; the masks hold no more than two windows a token."""
    generator = torch.Generator().manual_seed(length)
    tensors = [
        torch.randn(2, h, length, 8, generator=generator, dtype=torch.double, requires_grad=True) for h in (4, 2, 2)
    ]
    whole = torch.ones(length, length, dtype=torch.bool).tril().triu(1 - window)
    masks: list[Tensor] = []

    def watched(*parts: Tensor, attn_mask: Tensor, **options: Any) -> Tensor:
        masks.append(attn_mask)
        return plain(*parts, attn_mask=attn_mask, **options)

    monkeypatch.setattr(attention, "sdpa", watched)
    monkeypatch.setattr(attention, "_LEAST_BLOCK", 4)
    found = attention._causal(*tensors, None, 0.0, window)
    wanted = plain(*tensors, attn_mask=whole, enable_gqa=True)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), tensors),
        torch.autograd.grad(wanted.square().sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert len(masks) == -(-length // max(window, 4))
    assert all(mask.shape[1] <= max(window, 4) + window for mask in masks)


@pytest.mark.parametrize("window", [None, 4])
def test_heads_of_keys_that_no_kernel_shares_are_repeated(monkeypatch: pytest.MonkeyPatch, window: int | None) -> None:
    """As on a GPU whose kernels take no groups: there sharing them would need a matrix of all scores."""

    def outcome() -> list[Tensor]:
        generator = torch.Generator().manual_seed(3)
        tensors = [torch.randn(1, h, 9, 8, generator=generator, requires_grad=True) for h in (6, 2, 2)]
        out = attention._causal(tensors[0], tensors[1], tensors[2], None, 0.0, window)
        return [out, *torch.autograd.grad(out.square().sum(), tensors)]

    shared = outcome()
    monkeypatch.setattr(attention, "_takes_groups", lambda *_, **__: False)
    seen: list[bool] = []

    def watched(*tensors: Tensor, enable_gqa: bool, **options: Any) -> Tensor:
        seen.append(enable_gqa)
        return plain(*tensors, enable_gqa=enable_gqa, **options)

    monkeypatch.setattr(attention, "sdpa", watched)
    for one, other in zip(shared, outcome(), strict=True):
        torch.testing.assert_close(one, other)
    assert seen == [False]
