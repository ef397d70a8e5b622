"""A conversation with a model and its adapter: the prompt is encoded exactly as the training data was."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import torch
from tokenizers import Tokenizer as Decoder
from torch import nn

from qlora_fast.chat.placing import Place, place_of
from qlora_fast.data.tokenizer import Tokenizer
from qlora_fast.errors import DataError
from qlora_fast.model.adapter_files import load_adapter, whole_modules
from qlora_fast.model.load import (
    Quantization,
    bitsandbytes_config,
    eval_as_trained,
    from_files,
    quiet_libraries,
    refuse_unreachable,
)
from qlora_fast.model.varlen import without_cudnn

log = logging.getLogger(__name__)

_SLOWER: dict[Place, str] = {
    "devices": "spread over all GPUs",
    "main memory": "in main memory, and every layer is copied for every token",
}


class Turn(TypedDict):
    """One message: ``role`` (system, user or assistant) and ``content``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the most likely token.
        top_p: choose among the most likely tokens whose probabilities sum to this share.
        max_new_tokens: of one answer, at most.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256


@dataclass(slots=True)
class ChatSession:
    """A conversation with one model: the turns so far, and what generates the next one.

    Attributes:
        model: the base model, with adapters or without. tokenizer: its tokenizer and chat template.
        enable_thinking: let a thinking model think.
        turns: the messages so far.
        limit: the model's positions: tokens of prompt and answer together; None if unknown.
        generated: tokens of the last answer. stopped: why it ended: ``stop``, ``length`` or ``interrupted``.
    """

    model: nn.Module
    tokenizer: Tokenizer
    enable_thinking: bool = False
    turns: list[Turn] = field(default_factory=list)
    limit: int | None = None
    generated: int = 0
    stopped: str = ""
    _encoder: Any = None
    _decoder: Any = None

    def __post_init__(self) -> None:
        self.set_tokenizer(self.tokenizer)

    def set_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Use this tokenizer and its template from the next turn on."""
        self.tokenizer = tokenizer
        self._encoder = tokenizer.encoder()
        self._decoder = Decoder.from_file(tokenizer.file)

    def reply(self, text: str, sampling: Sampling) -> Iterator[str]:
        """Answer ``text``, in pieces as they are generated; the turn is kept, also when the caller stops early.

        Args:
            text: the user's message. sampling: how tokens are chosen, and how many at most.

        Raises:
            DataError: the conversation is longer than the model can read; the turn is taken back.
        """
        self.turns.append({"role": "user", "content": text})
        conversation = json.dumps({"messages": self.turns})
        prompt = self._encoder.encode(conversation, add_generation_prompt=True, enable_thinking=self.enable_thinking)[0]
        if self.limit is not None and len(prompt) >= self.limit:
            self.turns.pop()
            raise DataError(
                f"the conversation has {len(prompt):,} tokens, the model reads at most {self.limit:,}",
                hint="start a new conversation with /clear, or shorten the question",
            )
        shown, self.generated, self.stopped = "", 0, "interrupted"
        try:
            for piece in self._pieces(self._generate(prompt.tolist(), sampling)):
                shown += piece
                yield piece
        finally:
            self.turns.append({"role": "assistant", "content": shown})

    def _pieces(self, tokens: Iterator[int]) -> Iterator[str]:
        """Text up to the first stop token. A character that is spread over several tokens is yielded when it is complete."""
        stops = set(self._encoder.stop_ids())
        ids: list[int] = []
        shown = ""
        for token in tokens:
            if token in stops:
                self.stopped = "stop"
                break
            ids.append(token)
            self.generated = len(ids)
            whole = self._decoder.decode(ids, skip_special_tokens=False)
            if not whole.endswith("\ufffd"):
                yield whole[len(shown) :]
                shown = whole
        else:
            self.stopped = "length"
        # An incomplete character at the very end is yielded as the replacement character.
        rest = self._decoder.decode(ids, skip_special_tokens=False)[len(shown) :]
        if rest:
            yield rest

    @torch.no_grad()
    def _generate(self, prompt: list[int], sampling: Sampling) -> Iterator[int]:
        device = next(self.model.parameters()).device
        ids, cache = torch.tensor([prompt], device=device), None
        room = sampling.max_new_tokens if self.limit is None else self.limit - len(prompt)
        for _ in range(min(sampling.max_new_tokens, room)):
            with without_cudnn():  # each token is a new shape
                out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            token = _choose(out.logits[0, -1].float(), sampling)
            yield token
            ids = torch.tensor([[token]], device=device)


def _choose(logits: torch.Tensor, sampling: Sampling) -> int:
    """Greedy, or nucleus sampling (Holtzman et al. 2019)."""
    if sampling.temperature <= 0:
        return int(logits.argmax())
    probabilities, order = torch.softmax(logits / sampling.temperature, dim=-1).sort(descending=True)
    outside = probabilities.cumsum(0) - probabilities > sampling.top_p
    return int(order[torch.multinomial(probabilities.masked_fill(outside, 0.0), 1)])


def load_chat_model(
    base: str,
    adapters: Mapping[str, Path],
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization | None = None,
) -> nn.Module:
    """The base model with a key-value cache, and the adapters on it; the first adapter is active.

    A base that does not fit on the device is put on several, or comes from main memory (:mod:`~qlora_fast.chat.placing`).

    Raises:
        ArtifactError: the base or an adapter cannot be loaded.
    """
    quiet_libraries()
    refuse_unreachable(base)
    place = place_of(base, dtype, device, quantization)
    if place != "device":
        log.warning("the base model does not fit on %s: it is %s; answers are slower", device, _SLOWER[place])
    model = (
        _from_main_memory(base, dtype, device, quantization, adapters.values())
        if place == "main memory"
        else _on_devices(base, dtype, "auto" if place == "devices" else {"": str(device)}, quantization)
    )
    for name, folder in adapters.items():
        model = load_adapter(model, folder, name)
    return eval_as_trained(model) if place == "main memory" else model.eval()


def _on_devices(
    base: str, dtype: torch.dtype, device_map: str | dict[str, str], quantization: Quantization | None
) -> nn.Module:
    arguments: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa", "device_map": device_map}
    if quantization is not None:
        arguments["quantization_config"] = bitsandbytes_config(quantization, dtype)
    return from_files(base, **arguments)


def _from_main_memory(
    base: str,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization | None,
    adapters: Iterable[Path],
) -> nn.Module:
    from qlora_fast.model.streamed.load import load_streamed
    from qlora_fast.model.streamed.pinned import Pinned

    model = load_streamed(
        base,
        Pinned(),
        dtype=dtype,
        device=device,
        packing="none",
        quantization=quantization,
        resident={name for folder in adapters for name in whole_modules(folder)},
    )
    # Attention over packed rows knows no cache.
    model.set_attn_implementation("sdpa")  # type: ignore[operator]
    return model


def use_adapter(model: nn.Module, name: str | None) -> None:
    """Activate an adapter; None for the base model alone."""
    layers: Any = model.base_model
    if name is None:
        layers.disable_adapter_layers()
        return
    layers.enable_adapter_layers()
    model.set_adapter(name)  # type: ignore[operator]
