"""A row through the model, to the loss of its supervised tokens.

The decoder runs over the whole row; the head only where something is learned. Models whose logits are more than one
matrix product (soft caps, scales, an adapted head) take the longer way through their own head.

Legend: B sequences, S length, K supervised positions, D hidden width, V vocabulary.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from qlora_fast.attention import NAME
from qlora_fast.data import Row
from qlora_fast.loss import CHUNK, supervised_loss

_LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


class Forward:
    """Computes losses of rows with one model. Holds no state of its own."""

    def __init__(self, model: nn.Module, device: torch.device, compute_dtype: torch.dtype) -> None:
        inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.model = model
        self.device = device
        self._causal = inner
        self._decoder: Any = inner.get_decoder()
        self._head: Any = inner.get_output_embeddings()
        self._compute_dtype = compute_dtype
        config = inner.config.get_text_config()
        self._own_logits = any(getattr(config, name, None) not in (None, 1, 1.0) for name in _LOGIT_CHANGES)
        self._plain_head = type(self._head) is nn.Linear and self._head.bias is None
        self._packs = config._attn_implementation == NAME

    def loss_sum(self, row: Row) -> Tensor:
        """Σ cross-entropy over the row's supervised tokens, a scalar with a gradient."""
        targets = self._to_device(row.targets)
        with self._autocast():
            hidden_KD = self._hidden(row)
            if self._own_logits or not self._plain_head:
                return cross_entropy(self._logits(hidden_KD).float(), targets, reduction="sum")
            weight = self._head.weight
            return supervised_loss(hidden_KD.to(weight.dtype), weight, targets)

    @torch.no_grad()
    def token_losses(self, row: Row) -> tuple[Tensor, Tensor]:
        """(cross-entropy, whether the most likely token is the right one) of each supervised token, both (K,)."""
        targets = self._to_device(row.targets)
        losses, right = [], []
        with self._autocast():
            hidden_KD = self._hidden(row)
            for part, wanted in zip(hidden_KD.split(CHUNK), targets.split(CHUNK), strict=True):
                logits = self._logits(part).float()
                losses.append(cross_entropy(logits, wanted, reduction="none"))
                right.append(logits.argmax(-1) == wanted)
        if not losses:
            return torch.zeros(0, device=self.device), torch.zeros(0, dtype=torch.bool, device=self.device)
        return torch.cat(losses), torch.cat(right)

    def _hidden(self, row: Row) -> Tensor:
        """Hidden states at the predicting positions, (K, D)."""
        arguments: dict[str, Any] = {}
        if row.cu_seqlens is not None:
            borders = tuple(row.cu_seqlens.tolist())
            arguments = {"borders": borders, "max_length_q": row.max_seqlen, "max_length_k": row.max_seqlen}
            arguments["cu_seq_lens_q"] = arguments["cu_seq_lens_k"] = self._to_device(row.cu_seqlens)
        elif not self._packs and row.attention_mask is not None:
            arguments["attention_mask"] = self._to_device(row.attention_mask)
        # use_cache=False: a cache would switch transformers' own packing detection off, and costs memory.
        out = self._decoder(
            input_ids=self._to_device(row.input_ids),
            position_ids=self._to_device(row.position_ids),
            use_cache=False,
            **arguments,
        )
        states: Tensor = out.last_hidden_state
        return states.reshape(-1, states.shape[-1])[self._to_device(row.target_index)]

    def _logits(self, hidden_KD: Tensor) -> Tensor:
        """Logits of some positions through the model's own head, (K, V)."""
        logits: Tensor = self._head(hidden_KD)
        if not self._own_logits:
            return logits
        config = self._causal.config.get_text_config()
        if scale := getattr(config, "logits_scaling", None):
            logits = logits / scale
        if scale := getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None):
            logits = logits * scale
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._compute_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._compute_dtype)

    def _to_device(self, array: Any) -> Tensor:
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)
