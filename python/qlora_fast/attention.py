"""Attention over packed rows: samples one behind the other, none seeing another, and no mask.

Registered with transformers under :data:`NAME`. An attention that transformers does not know gets no mask built for
it, and the borders of the samples (``cu_seq_lens_q``, ``max_length_q``) flow through the model to it as keyword
arguments. On CUDA ``torch.nn.attention.varlen`` runs all samples in one kernel; elsewhere, and in fp32, each sample is one
causal ``scaled_dot_product_attention``.

Legend: B rows (1 when packed), H heads, G key/value heads, S row length, D head width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface

from qlora_fast.errors import ConfigError

NAME = "qlora_fast_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    borders: tuple[int, ...] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sample of a packed row, or over plain rows when no borders are given.

    Args:
        query: (B, H, S, D). key, value: (B, G, S, D).
        cu_seq_lens_q: (samples + 1,) int32 borders on the device. borders: the same as Python integers.
        max_length_q: length of the longest sample.

    Returns:
        (B, S, H, D), and no attention weights.
    """
    if borders is None:
        grouped = query.shape[1] != key.shape[1]
        out = sdpa(query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped)
        return out.transpose(1, 2), None
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and cu_seq_lens_q is not None:
        varlen = _varlen()
        if varlen is not None:
            out = varlen(query[0], key[0], value[0], cu_seq_lens_q, max_length_q, scaling)
            return out[None], None
    return _each_sample(query, key, value, borders, scaling, dropout), None


def _each_sample(
    query: Tensor, key: Tensor, value: Tensor, borders: tuple[int, ...], scaling: float | None, dropout: float
) -> Tensor:
    """One causal sdpa a sample: (1, S, H, D)."""
    grouped = query.shape[1] != key.shape[1]
    sizes = [end - start for start, end in zip(borders, borders[1:], strict=False)]
    # split, not slices: its backward writes one gradient instead of adding up one a sample.
    pieces = [
        sdpa(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped).transpose(1, 2)
        for q, k, v in zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    ]
    return torch.cat(pieces, dim=1)


@lru_cache(maxsize=1)
def _varlen() -> Callable[[Tensor, Tensor, Tensor, Tensor, int | None, float | None], Tensor] | None:
    """torch's varlen attention behind one signature: its causal flag and its GQA switch changed between versions."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}

    def call(q: Tensor, k: Tensor, v: Tensor, borders: Tensor, longest: int | None, scale: float | None) -> Tensor:
        options = dict(causal)
        heads, groups = q.shape[0], k.shape[0]
        if heads != groups:
            if "enable_gqa" in known:
                options["enable_gqa"] = True
            else:
                k, v = (t.repeat_interleave(heads // groups, dim=0) for t in (k, v))
        if scale is not None and "scale" in known:
            options["scale"] = scale
        # (H, S, D) → (S, H, D), which is what the kernel wants.
        q, k, v = (t.transpose(0, 1).contiguous() for t in (q, k, v))
        out: Tensor = varlen_attn(q, k, v, borders, borders, longest, longest, **options)
        return out

    return call


def refuse_unpackable(config: Any, packing: str) -> None:
    """Packing needs every layer to be full causal attention: other layers carry state across samples.

    Raises:
        ConfigError: the model has layers that a packed row would mix up.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    kind = str(getattr(text, "model_type", ""))
    stateful = any(word in kind for word in ("mamba", "rwkv", "ssm", "jamba", "falcon_h1", "xlstm", "lfm"))
    if kinds - {"full_attention"} or stateful:
        odd = ", ".join(sorted(kinds - {"full_attention"})) or kind
        raise ConfigError(
            f"`packing: {packing}` does not work for this model: it has {odd} layers",
            hint="set `packing: none` or `packing: bucketed`",
        )


AttentionInterface.register(NAME, packed_attention)
