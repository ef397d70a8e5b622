"""Models of a few thousand parameters with random weights, made in milliseconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from paths import FIXTURES
from qlora_fast.model.attention import NAME
from qlora_fast.model.load import quiet_libraries
from qlora_fast.model.lora import LoraSpec, add_lora

# Products this small are faster on one thread, and much faster beside another busy process.
torch.set_num_threads(1)

VOCAB = 97
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def qwen3(seed: int = 0, attention: str = NAME, **changes: Any) -> nn.Module:
    """A Qwen3 with tied embeddings and grouped heads."""
    config = Qwen3Config(**{**_SHAPE, "head_dim": 8, "tie_word_embeddings": True, **changes})
    return _frozen(Qwen3ForCausalLM, config, seed, attention)


def llama(seed: int = 0, attention: str = NAME, **changes: Any) -> nn.Module:
    """A Llama with a head of its own."""
    return _frozen(
        LlamaForCausalLM, LlamaConfig(**{**_SHAPE, "tie_word_embeddings": False, **changes}), seed, attention
    )


MODELS = {"qwen3": qwen3, "llama": llama}


def adapted(model: nn.Module, *, rank: int = 4, dropout: float = 0.0, seed: int = 0, warm: bool = True) -> nn.Module:
    """A LoRA on everything. ``warm`` gives B random values, or half of the gradients would be zero."""
    peft = add_lora(model, LoraSpec(rank, 2 * rank, dropout), seed=seed)
    if warm:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                # Drawn on the host: the same values on every device, and a generator belongs to one.
                values = torch.empty(parameter.shape, dtype=parameter.dtype).normal_(std=0.05, generator=generator)
                parameter.data.copy_(values)
    return peft


def save(model: nn.Module, folder: Path) -> Path:
    """As an ordinary model folder."""
    model.save_pretrained(folder)  # type: ignore[operator]
    return folder


def model_folder(folder: Path) -> Path:
    """A complete model folder: a random Qwen3 of a few thousand parameters, with the test tokenizer and its template."""
    tokenizer = FIXTURES / "tokenizer" / "tokenizer.json"
    vocabulary = 1 + max(Tokenizer.from_file(str(tokenizer)).get_vocab().values())
    save(qwen3(vocab_size=vocabulary, max_position_embeddings=2048), folder)
    shutil.copy(tokenizer, folder)
    template = (FIXTURES / "chat_templates" / "qwen3.jinja").read_text(encoding="utf-8")
    settings = {"eos_token": "<|im_end|>", "chat_template": template, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def _frozen(kind: Any, config: Any, seed: int, attention: str) -> nn.Module:
    quiet_libraries()
    config._attn_implementation = attention
    torch.manual_seed(seed)
    model: nn.Module = kind(config)
    return model.requires_grad_(False).eval()
