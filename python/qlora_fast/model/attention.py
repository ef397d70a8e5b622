"""Attention over packed rows: concatenated samples that do not attend to each other, without a mask.

Registered with transformers under :data:`NAME`. An attention that transformers does not know gets no mask built for
it, and the borders of the samples flow through the model to it as keyword arguments. Where :mod:`qlora_fast.model.varlen` runs,
it takes all samples in one kernel; elsewhere each sample is one causal ``scaled_dot_product_attention``, which is as exact.
Whatever it cannot do exactly (soft caps, sinks, biases) it refuses.

It is for training and scoring only: with a key/value cache it would be wrong, so generation uses another attention.

Legend: B rows (1 when packed), H heads, G key/value heads, S row length, L sample length, D head width.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends.cuda import SDPAParams, can_use_efficient_attention, can_use_flash_attention
from torch.nn.attention import sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface

from qlora_fast.errors import ConfigError
from qlora_fast.model.varlen import WITHOUT_CUDNN, path_for, without_cudnn

NAME = "qlora_fast_packed"
_HINT = "set `packing: none` or `packing: bucketed`"
_STATEFUL = ("mamba", "rwkv", "ssm", "jamba", "zamba", "falcon_h1", "xlstm", "lfm", "retnet", "recurrent", "hybrid")
_PACKABLE_LAYERS = {"full_attention", "sliding_attention"}
_DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
"""What the configs of transformers' models call the dropout of attention weights."""
_LEAST_BLOCK = 1024
"""Tokens that attend together where a window is narrower: less would be many launches for little work."""


class Borders:
    """Where the samples of a packed row begin and end, for the host: (samples + 1) integers.

    An object, and not a tuple: torch.compile takes it as it is, where it would compile again for every tuple of numbers.
    """

    __slots__ = ("_places",)

    def __init__(self, places: Iterable[int]) -> None:
        self.move(places)

    def move(self, places: Iterable[int]) -> None:
        """From now on those of another row."""
        self._places = tuple(int(place) for place in places)

    def lengths(self) -> list[int]:
        """Tokens of each sample; empty ones, which only fill a row up, are left out."""
        return [end - start for start, end in pairwise(self._places) if end > start]


def length_step(longest: int) -> int:
    """The next power of two, at least 64: what kernels are told of a row's longest sample.

    It decides how many blocks are launched, and those past the end of their sample return at once; in exchange a compiled or
    captured step serves rows whose longest samples differ.
    """
    return max(64, 1 << (longest - 1).bit_length())


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    borders: Borders | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sample of a packed row, or over whole rows when no borders are given.

    Args:
        query: (B, H, S, D). key, value: (B, G, S, D).
        sliding_window: tokens that a token sees at most, itself included.
        borders: where the samples begin and end, on the host. cu_seq_lens_q: (samples + 1,) the same on the device, int32.
        max_length_q: length of the longest sample, or more.

    Returns:
        (B, S, H, D), and no attention weights.

    Raises:
        ConfigError: the model asks for an attention that this one is not.
    """
    _refuse_what_would_be_wrong(module, query, key, attention_mask, is_causal, more)
    window = sliding_window if sliding_window is not None and sliding_window < _longest(query, max_length_q) else None
    if not query.is_cuda:
        return _attend(query, key, value, borders, cu_seq_lens_q, max_length_q, scaling, dropout, window), None
    # torch.compile knows this context and not the other, which is the cheaper one.
    with sdpa_kernel(WITHOUT_CUDNN) if torch.compiler.is_compiling() else without_cudnn():
        return _attend(query, key, value, borders, cu_seq_lens_q, max_length_q, scaling, dropout, window), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    borders: Borders | None,
    cu_seq_lens: Tensor | None,
    max_length: int | None,
    scaling: float | None,
    dropout: float,
    window: int | None,
) -> Tensor:
    """(B, S, H, D) by the path that runs on the device."""
    if borders is None:
        return _causal(query, key, value, scaling, dropout, window).transpose(1, 2)
    if query.is_cuda and cu_seq_lens is not None and not dropout:
        kernel = path_for(query.device, query.dtype, query.shape[-1]).kernel
        if kernel is not None:
            return kernel(query[0], key[0], value[0], cu_seq_lens, _longest(query, max_length), scaling, window)[None]
    out: Tensor = _each_sample(query, key, value, borders, scaling, dropout, window)
    return out


# Left to eager mode: a compiled graph would hold the number and the lengths of the samples, and be compiled for each row.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _each_sample(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    borders: Borders,
    scaling: float | None,
    dropout: float,
    window: int | None,
) -> Tensor:
    """One causal sdpa a sample: (1, S, H, D)."""
    sizes = borders.lengths()
    # split, not slices: its backward writes one gradient instead of adding up one a sample.
    pieces = [
        _causal(q, k, v, scaling, dropout, window if window is not None and window < q.shape[2] else None)
        for q, k, v in zip(
            torch.split(query, sizes, 2), torch.split(key, sizes, 2), torch.split(value, sizes, 2), strict=True
        )
    ]
    return torch.cat([piece.transpose(1, 2) for piece in pieces], dim=1)


def _causal(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, dropout: float, window: int | None) -> Tensor:
    """(B, H, L, D), each token seeing itself and what is before it (no further back than ``window``)."""
    if q.shape[1] != k.shape[1] and not _takes_groups(q, k, v, masked=window is not None):
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    kept: dict[str, Any] = {"dropout_p": dropout, "scale": scaling, "enable_gqa": q.shape[1] != k.shape[1]}
    if window is None:
        return sdpa(q, k, v, is_causal=True, **kept)
    parts = []
    for tokens, seen in _blocks(q.shape[2], window):
        at, before = (torch.arange(x.start, x.stop, device=q.device) for x in (tokens, seen))
        # The one mask of this file: a band, for a sample that is longer than the model's window.
        band = (before <= at[:, None]) & (before > at[:, None] - window)
        parts.append(sdpa(q[:, :, tokens], k[:, :, seen], v[:, :, seen], attn_mask=band, **kept))
    return torch.cat(parts, dim=2)


def _blocks(length: int, window: int) -> list[tuple[slice, slice]]:
    """Tokens that attend together, and all tokens that they see: fewer than 2·L·max(W, least block) numbers of masks, not L²."""
    step = max(window, _LEAST_BLOCK)
    return [
        (slice(first, min(first + step, length)), slice(max(0, first - window + 1), min(first + step, length)))
        for first in range(0, length, step)
    ]


def _takes_groups(q: Tensor, k: Tensor, v: Tensor, *, masked: bool) -> bool:
    """Whether a kernel that holds no (L, L) matrix takes fewer heads of keys than of queries.

    FlashAttention does, in 16 bits from Ampere on; the memory-efficient one, which runs elsewhere, only in newer versions of torch,
    and without either a GPU would hold H·L² scores of each layer.
    """
    if not q.is_cuda or torch.compiler.is_compiling():
        return True
    key = (q.device.index, q.dtype, q.shape[-1], masked)
    if key not in _GROUPED:
        q, k, v = q[:, :, :16], k[:, :, :16], v[:, :, :16]
        mask = q.new_ones((q.shape[2], k.shape[2]), dtype=torch.bool) if masked else None
        asked = SDPAParams(q, k, v, mask, 0.0, not masked, True)
        _GROUPED[key] = can_use_flash_attention(asked) or can_use_efficient_attention(asked)
    return _GROUPED[key]


_GROUPED: dict[tuple[int, torch.dtype, int, bool], bool] = {}


def _longest(query: Tensor, max_length: int | None) -> int:
    return query.shape[2] if max_length is None else max_length


def _refuse_what_would_be_wrong(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool | None, more: dict[str, Any]
) -> None:
    asked = [name for name in ("softcap", "s_aux", "position_bias") if more.get(name) is not None]
    causal = is_causal if is_causal is not None else bool(getattr(module, "is_causal", True))
    if not causal:
        asked.append("attention to later tokens")
    if query.shape[2] != key.shape[2]:
        asked.append("a key/value cache")
    if mask is not None:
        asked.append("an attention mask")
    if asked:
        raise ConfigError(f"packed attention cannot run this model: it asks for {', '.join(asked)}", hint=_HINT)


def dropout_of(config: Any) -> float:
    """Share of the attention weights that a model drops at random while it trains."""
    text = config.get_text_config()
    return max(float(getattr(text, name, None) or 0) for name in _DROPOUTS)


def packable(config: Any) -> str | None:
    """What keeps a model from being packed, or None. Layers that are not attention carry state across samples."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    text = config.get_text_config()
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        # Code of before transformers' attention interface would ignore ours, and leave out its own causal mask as well.
        model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        if not model_class._can_set_attn_implementation():
            return "attention of its own, which cannot be replaced"
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"]) - _PACKABLE_LAYERS
    if kinds:
        return f"{', '.join(sorted(kinds))} layers"
    if any(word in str(text.model_type) for word in _STATEFUL):
        return f"the layers of {text.model_type}, which carry state from sample to sample"
    if getattr(text, "attn_logit_softcapping", None):
        return "a soft cap on its attention"
    if getattr(text, "use_bidirectional_attention", None):
        return "attention to later tokens"
    return None


def refuse_unpackable(config: Any, packing: str) -> None:
    """Packing needs every layer to be plain causal attention.

    Raises:
        ConfigError: the model has layers that a packed row would mix up.
    """
    reason = packable(config)
    if reason is not None:
        raise ConfigError(f"`packing: {packing}` does not work for this model: it has {reason}", hint=_HINT)


AttentionInterface.register(NAME, packed_attention)
