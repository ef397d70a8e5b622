"""Models of real shapes with random weights made where they are needed, and samples of real lengths.

Nothing is read from disk or fetched: a GPU makes the weights of 8B parameters in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benches.gpu.product import ATTENTION, PreparedDataset, open_prepared, quiet_libraries


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers of a Qwen3."""

    name: str
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    vocab: int = 151_936
    head_dim: int = 128

    def config(self, attention: str = ATTENTION) -> Any:
        """transformers' configuration of it."""
        from transformers import Qwen3Config

        config = Qwen3Config(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.ffn,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            tie_word_embeddings=self.tied,
            max_position_embeddings=40_960,
            rope_theta=1_000_000.0,
        )
        config._attn_implementation = attention
        return config


SMALL = ModelShape("Qwen3-0.6B", 1024, 3072, 28, 16, 8, tied=True)
LARGE = ModelShape("Qwen3-8B", 4096, 12288, 36, 32, 8, tied=False)
TINY = ModelShape("tiny", 64, 128, 2, 4, 2, tied=True, vocab=512, head_dim=16)


def make_model(shape: ModelShape, device: torch.device, dtype: torch.dtype, attention: str = ATTENTION) -> nn.Module:
    """A frozen model on ``device``: equal seeds and shapes give equal weights on the same kind of GPU."""
    from transformers import Qwen3ForCausalLM

    quiet_libraries()
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model: nn.Module = Qwen3ForCausalLM(shape.config(attention))
    finally:
        torch.set_default_dtype(before)
    return model.to(device).requires_grad_(False)


def quantize(model: nn.Module) -> nn.Module:
    """The linear layers, but not the head, as bitsandbytes' NF4 with nested scales; the same object."""
    import bitsandbytes as bnb

    head = model.get_output_embeddings()  # type: ignore[operator]
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear or child is head:
                continue
            four = bnb.nn.Linear4bit(
                child.in_features, child.out_features, bias=False, compute_dtype=child.weight.dtype,
                compress_statistics=True, quant_type="nf4", device="meta",
            )  # fmt: skip
            four.weight = bnb.nn.Params4bit(
                child.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=four
            ).to(child.weight.device)
            setattr(parent, name, four)
    model.is_loaded_in_4bit = True  # type: ignore[assignment]
    return model


def alpaca_lengths(rng: np.random.Generator, count: int) -> np.ndarray:
    """Tokens of samples as in Alpaca: log-normal around 75."""
    return np.clip(rng.lognormal(np.log(75), 0.6, count), 12, 1024).astype(int)


def make_data(folder: Path, count: int, vocab: int) -> PreparedDataset:
    """``count`` samples of random ids; the last two thirds of each are supervised."""
    from prepared import write_prepared

    rng = np.random.default_rng(0)
    lengths = alpaca_lengths(rng, count)
    samples = [(rng.integers(0, vocab, n).tolist(), [(max(1, int(n) // 3), int(n))]) for n in lengths]
    return open_prepared(write_prepared(folder, samples))


def samples_of(dataset: PreparedDataset, tokens: int) -> list[int]:
    """The first samples that together have at most ``tokens`` tokens."""
    fit = int(np.searchsorted(np.cumsum(dataset.lengths.astype(np.int64)), tokens, side="right"))
    return list(range(max(1, fit)))
