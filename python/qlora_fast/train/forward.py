"""A row through the model, to the losses of its supervised tokens.

The decoder runs over the whole row; the head only where something is learned. A model whose logits are more than one
matrix product (soft caps, scales, an adapted head) is found out by a probe and takes the longer way through its own head.

Legend: B sequences, S length, K supervised positions, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from qlora_fast.data.batch import Row, own_lengths
from qlora_fast.data.rung import DEAD
from qlora_fast.model import products
from qlora_fast.model.attention import NAME, Borders, dropout_of, length_step
from qlora_fast.model.load import eval_as_trained
from qlora_fast.model.patch import report_of
from qlora_fast.model.streamed.hooks import held, places_with_backward, stream_of
from qlora_fast.model.varlen import AttentionPath, path_for
from qlora_fast.train.loss import chunk_of, supervised_loss


@dataclass(frozen=True, slots=True)
class RowTensors:
    """A row on the device, see :class:`~qlora_fast.data.batch.Row`. ``longest``: of its samples, or more."""

    input_ids: Tensor
    position_ids: Tensor
    targets: Tensor
    target_index: Tensor
    cu_seqlens: Tensor | None
    attention_mask: Tensor | None
    borders: Borders | None
    longest: int


class _Pick(torch.autograd.Function):
    """Rows of a matrix, none of them twice: then their gradients are copied back, where indexing would sort and add them up."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = table.shape
        return table.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return upstream.new_zeros(ctx.shape).index_copy_(0, index, upstream), None


class Forward:
    """Computes losses of rows with one model.

    The model computes in its own dtype; there is no autocast, so nothing is cast that need not be.

    Args:
        noise: NEFTune (Jain et al. 2024): while training, uniform noise of noise/√(L·D) on the embeddings of a sample of
            L tokens. It is drawn from torch's own generator, which a checkpoint keeps.
    """

    def __init__(self, model: nn.Module, device: torch.device, *, noise: float = 0.0) -> None:
        wrapped: Any = model
        inner: Any = wrapped.get_base_model() if hasattr(model, "get_base_model") else model
        self.model = model
        self.device = device
        self._causal = inner
        self._decoder: Any = inner.get_decoder()
        self._head: Any = inner.get_output_embeddings()
        self.dtype: torch.dtype = inner.get_input_embeddings().weight.dtype
        self._packs = inner.config._attn_implementation == NAME
        self.stream = stream_of(model)
        """How the base's layers come to the device, if they are not all there."""
        self.plain_head = self._logits_are_one_product()
        if self.stream is not None:
            self.stream.backward = places_with_backward(model, plain_head=self.plain_head)
        self._kernels = report_of(model).kernels
        # Logits are never rounded: they are what the loss and the scores are made of.
        self._head_way = report_of(model).products.exact
        self._noise = noise
        self._noise_reach: Tensor | None = None
        if noise:
            inner.get_input_embeddings().register_forward_hook(self._add_noise)

    def attention(self, *, packed: bool) -> str:
        """Which attention the rows of training run through on this device, and why."""
        if not self._packs:
            return f"transformers' own ({self._causal.config._attn_implementation})"
        if not packed:
            return "whole rows by scaled_dot_product_attention (they are padded, not packed)"
        return str(self._path())

    def attends_whole_rows(self) -> bool:
        """Whether attention to a packed row of training is one launch, whatever its samples are."""
        return self._packs and self._path().kernel is not None

    def _path(self) -> AttentionPath:
        text = self._causal.config.get_text_config()
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        path = path_for(self.device, self.dtype, int(width))
        if path.kernel is None or not (share := self.attention_dropout):
            return path
        return AttentionPath(None, f"the kernel has no dropout, and the model has attention_dropout: {share:g}")

    @property
    def attention_dropout(self) -> float:
        """Share of the attention weights that the model's own config has dropped at random while training."""
        return dropout_of(self._causal.config)

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return int(self._causal.config.get_text_config().num_hidden_layers)

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Without dropout and without gradients; the model is afterwards as it was."""
        was_training = self.model.training
        eval_as_trained(self.model)
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(was_training)

    def loss_sum(self, row: Row) -> Tensor:
        """Σ cross-entropy over the row's supervised tokens: a scalar in fp32, with a gradient."""
        with self._noisy(row):
            return self.loss_of(self.on_device(row))

    def loss_of(self, row: RowTensors) -> Tensor:
        """The same of a row on the device. A position with a negative target adds nothing."""
        if self.plain_head:
            hidden = self._hidden(row)
            with held(self._head):
                weight = self._head.weight
                return supervised_loss(hidden, weight, row.targets, kernels=self._kernels, way=self._head_way)
        # The negative targets of a filled row are all DEAD.
        return cross_entropy(self._own_logits(row).float(), row.targets, reduction="sum", ignore_index=DEAD)

    def on_device(self, row: Row) -> RowTensors:
        """A row's arrays where they are computed with."""
        borders = row.cu_seqlens
        mask = None if borders is not None or self._packs else row.attention_mask
        return RowTensors(
            input_ids=self._to_device(row.input_ids),
            position_ids=self._to_device(row.position_ids),
            targets=self._to_device(row.targets),
            target_index=self._to_device(row.target_index),
            cu_seqlens=None if borders is None else self._to_device(borders),
            attention_mask=None if mask is None else self._to_device(mask),
            borders=None if borders is None else Borders(borders),
            longest=length_step(row.max_seqlen),
        )

    def token_losses(self, row: Row) -> tuple[Tensor, Tensor]:
        """(cross-entropy, whether the most likely token is the right one) of each supervised token, both (K,).

        Call it inside :meth:`scoring`, as :meth:`reference_losses`.
        """
        placed = self.on_device(row)
        if self.plain_head:
            chunk = chunk_of(len(self._head.weight))
            hidden, targets = self._hidden(placed), torch.split(placed.targets, chunk)
            with held(self._head):
                weight = self._head.weight
                parts = [products.forward(self._head_way, part, weight, None) for part in torch.split(hidden, chunk)]
            pairs = [self._score(part, wanted) for part, wanted in zip(parts, targets, strict=True)]
        else:
            pairs = [self._score(self._own_logits(placed), placed.targets)]
        losses, right = zip(*pairs, strict=True)
        return torch.cat(losses), torch.cat(right)

    def reference_losses(self, row: Row) -> Tensor:
        """Cross-entropies (K,) by nothing but the model's own code: no borders, no chunks. For a row of one sample."""
        logits = self._causal(
            input_ids=self._to_device(row.input_ids),
            use_cache=False,
            logits_to_keep=self._to_device(row.target_index),
        ).logits[0]
        return cross_entropy(logits.float(), self._to_device(row.targets), reduction="none")

    @staticmethod
    def _score(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        losses = cross_entropy(logits.float(), targets, reduction="none")
        return losses, logits.argmax(-1) == targets

    def idle(self, *, training: bool) -> None:
        """Take part in a row of the other ranks, which share the base with this one, without a row of its own: only the
        base's layers pass through. Training includes the backward pass; otherwise it is that of :meth:`token_losses`."""
        if self.stream is not None:
            self.stream.idle_pass(training=training)

    def _hidden(self, row: RowTensors) -> Tensor:
        """Hidden states at the predicting positions, (K, D)."""
        states: Tensor = self._decoder(**self._inputs(row)).last_hidden_state
        picked: Tensor = _Pick.apply(states.reshape(-1, states.shape[-1]), row.target_index)
        return picked

    def _own_logits(self, row: RowTensors) -> Tensor:
        """Logits at the predicting positions through the model's own head, (K, V)."""
        if len(row.input_ids) == 1:
            logits: Tensor = self._causal(**self._inputs(row), logits_to_keep=row.target_index).logits[0]
            return logits
        logits = self._causal(**self._inputs(row)).logits
        picked: Tensor = _Pick.apply(logits.reshape(-1, logits.shape[-1]), row.target_index)
        return picked

    @staticmethod
    def _inputs(row: RowTensors) -> dict[str, Any]:
        # use_cache=False: a cache would switch transformers' own packing detection off, and costs memory.
        inputs: dict[str, Any] = {"use_cache": False, "input_ids": row.input_ids, "position_ids": row.position_ids}
        if row.cu_seqlens is not None:
            inputs["borders"] = row.borders
            inputs["cu_seq_lens_q"] = inputs["cu_seq_lens_k"] = row.cu_seqlens
            inputs["max_length_q"] = inputs["max_length_k"] = row.longest
        elif row.attention_mask is not None:
            inputs["attention_mask"] = row.attention_mask
        return inputs

    @contextmanager
    def _noisy(self, row: Row) -> Iterator[None]:
        """Inside, embeddings get their noise; its size goes by each sample's own length, whatever shares the row."""
        if self._noise and self.model.training:
            reach = self._noise / np.sqrt(own_lengths(row).astype(np.float32))
            self._noise_reach = self._to_device(reach)[..., None]
        try:
            yield
        finally:
            self._noise_reach = None

    def _add_noise(self, module: nn.Module, args: Any, embedded: Tensor) -> Tensor:
        if self._noise_reach is None:
            return embedded
        reach = (self._noise_reach / embedded.shape[-1] ** 0.5).to(embedded.dtype)
        noise: Tensor = torch.empty_like(embedded).uniform_(-1, 1)
        noisy: Tensor = embedded + noise * reach
        return noisy

    def _logits_are_one_product(self) -> bool:
        """Whether the model's logits are exactly head · hidden: asked of the model, not of a list of its options."""
        if type(self._head) is not nn.Linear or self._head.bias is not None or self._head.weight.is_meta:
            return False
        ids = torch.arange(4, device=self.device)[None]
        with self.scoring():
            own = self._causal(input_ids=ids, use_cache=False).logits
            plain = self._head(self._decoder(input_ids=ids, use_cache=False).last_hidden_state)
        return own.shape == plain.shape and torch.equal(own, plain)

    def put(self, buffer: Tensor, array: NDArray[Any]) -> None:
        """Copy an array into memory of the device, behind what is launched already."""
        buffer.copy_(self._on_host(array), non_blocking=True)

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        tensor = self._on_host(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device, non_blocking=True)

    def _on_host(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        return tensor if self.device.type == "cpu" else tensor.pin_memory()
