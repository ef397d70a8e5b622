"""Every architecture that can be packed computes what its own attention does, and trains."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AttentionInterface,
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

import tiny
from parameter_run import maker
from qlora_fast.errors import ConfigError
from qlora_fast.model import attention
from qlora_fast.model.attention import NAME, Borders, packable

PACKED = """
    afmoe apertus apertus1p5_text arcee aria_text beam biogpt bitnet codegen cohere cohere2 cohere2_moe ctrl
    cwm diffllama dory ernie4_5 ernie4_5_moe exaone exaone4 exaone_moe flex_olmo gemma gemma3_text glm glm4
    glm4_moe gpt-sw3 gpt2 gpt_bigcode gpt_neox gptj granite granitemoe granitemoeshared helium hrm_text
    hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe kolibri1 laguna
    llama mellum minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mixtral modernbert-decoder moshi
    nanochat olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe sarvam_moe
    seed_oss smollm3 solar_open starcoder2 whisper
"""
EVERYWHERE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "phi3", "olmo2", "granite", "glm4", "gpt2")
"""What every transformers that the package accepts has."""
SMALL = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embed_dim", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"), 96),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 256),
    **dict.fromkeys(("num_key_value_heads", "num_query_groups", "num_local_experts", "num_experts_per_tok"), 2),
    **dict.fromkeys(("num_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    "head_dim": 16,
    "rotary_dim": 8,
    "vocab_size": 128,
    "moe_intermediate_size": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LENGTHS, BORDERS = (7, 19, 12), (0, 7, 26, 38)
IDS = torch.randint(3, 128, (1, 38), generator=torch.Generator().manual_seed(1))
CALL = {
    "position_ids": torch.cat([torch.arange(n) for n in LENGTHS])[None],
    "borders": Borders(BORDERS),
    "cu_seq_lens_q": torch.tensor(BORDERS, dtype=torch.int32),
    "max_length_q": max(LENGTHS),
}


def small(name: str, attention: str, **changes: Any) -> Any:
    """A random model of an architecture. Weights are large enough that every token's logits depend on all before it."""
    kind = CONFIG_MAPPING[name]
    known = kind()
    config = kind(**{key: value for key, value in SMALL.items() if hasattr(known, key)}, **changes)
    assert packable(config) is None
    config = copy.deepcopy(config)
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.15)
    return model


@pytest.mark.parametrize("name", PACKED.split())
@torch.no_grad()
def test_a_packed_row_has_the_logits_of_the_models_own_attention(name: str) -> None:
    if name not in CONFIG_MAPPING:
        assert name not in EVERYWHERE
        pytest.skip("an older transformers")
    own, ours = small(name, "eager"), small(name, NAME)
    ours.load_state_dict(own.state_dict())
    wanted = torch.cat([own(part, use_cache=False).logits for part in IDS.split(LENGTHS, 1)], dim=1)
    found = ours(IDS, use_cache=False, **CALL).logits
    assert float((found - wanted).abs().max()) < 2e-5 * max(1.0, float(wanted.abs().max()))


# DiffLlama refuses to be built with any.
@pytest.mark.parametrize("name", [name for name in PACKED.split() if name != "diffllama"])
@torch.no_grad()
def test_the_dropout_of_attention_is_known_from_the_config(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It decides whether a kernel without dropout may run; each architecture has its own name for it."""
    if name not in CONFIG_MAPPING:
        pytest.skip("an older transformers")
    known = CONFIG_MAPPING[name]()
    model = small(name, NAME, **{key: 0.25 for key in attention._DROPOUTS if hasattr(known, key)}).train()
    given: list[float] = []

    def recorded(*tensors: Any, dropout: float = 0.0, **options: Any) -> Any:
        given.append(dropout)
        return attention.packed_attention(*tensors, dropout=dropout, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, recorded)
    model(IDS, use_cache=False, **CALL)
    assert given
    assert set(given) == {attention.dropout_of(model.config)}


OLD = {
    "gptj": (GPTJForCausalLM, GPTJConfig(n_embd=32, n_layer=2, n_head=2, rotary_dim=8, n_positions=2048)),
    "bloom": (BloomForCausalLM, BloomConfig(hidden_size=32, n_layer=2, n_head=2)),
    "falcon": (FalconForCausalLM, FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)),
}


@pytest.mark.parametrize(("name", "packs"), [("gptj", True), ("bloom", False), ("falcon", False)])
def test_a_decoder_of_another_build_trains_or_is_told_how(name: str, packs: bool, tmp_path: Path) -> None:
    """Their layers have other names, and the older ones compute their attention themselves."""
    kind, config = OLD[name]
    folder = tiny.model_folder(tmp_path / "model")
    config.vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    config.bos_token_id, config.eos_token_id = 1, 2
    tiny.save(kind(config), folder)
    make = maker(folder, tmp_path)
    if not packs:
        with pytest.raises(ConfigError, match="attention of its own"):
            make(packing="exact", max_steps=1)
    run = make(packing="exact" if packs else "none", max_steps=2)
    assert len(run.column("loss")) > 0
