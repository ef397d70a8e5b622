"""A chat with one base model and any number of adapters on it: loading them, and the slash commands.

The adapters share one copy of the base model (a few MB each), so switching costs nothing and each can be asked the same
question.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from qlora_fast.chat.session import ChatSession, Sampling, Turn, load_chat_model, use_adapter
from qlora_fast.data.tokenizer import Tokenizer
from qlora_fast.errors import ArtifactError, ConfigError
from qlora_fast.hub import resolve as hub
from qlora_fast.hub.manifest import Verify
from qlora_fast.model.load import Quantization, pick_device, pick_dtype
from qlora_fast.runs import layout
from qlora_fast.runs.resolve import target_of

log = logging.getLogger(__name__)

BASE = "base"
"""The name in /adapter of the base model without an adapter."""
HELP = """\
/adapter [NAME]    list the adapters, or activate one; `base` is the model without an adapter
/again             ask the last question again (of another adapter, or with other settings)
/clear             start a new conversation
/system [TEXT]     show or set the system prompt; setting it starts a new conversation
/set [KEY VALUE]   show or set temperature, top_p, max_new_tokens, thinking (on, off), seed
/help              show this list
/exit              end the chat (or Ctrl-D); Ctrl-C stops an answer"""


@dataclass(slots=True)
class Chat:
    """A conversation, the loaded adapters and the sampling settings; made by :func:`open_chat`.

    Attributes:
        session: the turns so far, and what generates the next one.
        adapters: the tokenizer and chat template of each adapter, and of ``base``, the model without an adapter.
        active: the name of the one that answers.
        system: the system prompt; None for that of the training.
    """

    session: ChatSession
    sampling: Sampling
    adapters: dict[str, Tokenizer]
    switch: Callable[[str | None], None]
    active: str = BASE
    system: str | None = None
    seed: int = 0
    without_thoughts: set[str] = field(default_factory=set)
    """The adapters that were trained with ``enable_thinking: false`` and that no warning has named yet."""
    _last_question: str | None = field(default=None)

    def ask(self, text: str) -> Iterator[str]:
        """Answer ``text`` with the active adapter, in pieces as they are generated. The turn becomes part of the conversation.

        Raises:
            DataError: the conversation is longer than the model can read; the turn is taken back.

        Example:
            >>> chat = qlora_fast.open_chat("runs/mine", sampling=qlora_fast.Sampling(max_new_tokens=4))
            >>> pieces = list(chat.ask("Hello"))
            >>> chat.session.turns[-1]["content"] == "".join(pieces)
            True
        """
        self._last_question = text
        return self.session.reply(text, self.sampling)

    def clear(self) -> None:
        """Start a new conversation, from the same seed. The system prompt stays."""
        start: list[Turn] = [] if self.system is None else [{"role": "system", "content": self.system}]
        self.session.turns = start
        torch.manual_seed(self.seed)

    def use(self, name: str) -> None:
        """Activate another adapter, with the template that it was trained with.

        Raises:
            ConfigError: no adapter has that name.
        """
        if name not in self.adapters:
            raise ConfigError(f"no adapter `{name}`", hint=f"loaded: {', '.join(self.adapters)}")
        self.switch(None if name == BASE else name)
        self.session.set_tokenizer(self.adapters[name])
        self.active = name
        self.warn_of_thinking()

    def warn_of_thinking(self) -> None:
        """Log once where thinking is on for an adapter that was trained without thoughts."""
        if self.session.enable_thinking and self.active in self.without_thoughts:
            self.without_thoughts.remove(self.active)
            log.warning(
                "`%s` was trained with enable_thinking: false, without thoughts: with thinking on it gets prompts that it was "
                "not trained on",
                self.active,
            )

    def command(self, line: str) -> tuple[str, str | None]:
        """Execute a slash command.

        Returns:
            what to show, and a question to ask now (of /again only).

        Raises:
            ConfigError: no such command, or a value out of its limits. EOFError: /exit.
        """
        name, _, rest = line[1:].strip().partition(" ")
        rest = rest.strip()
        if name in ("exit", "quit"):
            raise EOFError
        if name == "help":
            return HELP, None
        if name == "clear":
            self.clear()
            return "a new conversation", None
        if name == "system":
            return self._system(rest), None
        if name == "adapter":
            if rest:
                self.use(rest)
            return "\n".join(f"{'→' if n == self.active else ' '} {n}" for n in self.adapters), None
        if name == "set":
            return self._set(rest), None
        if name == "again":
            return "", self._again()
        raise ConfigError(f"no command `/{name}`", hint="/help lists the commands")

    def _system(self, text: str) -> str:
        if text:
            self.system = text
            self.clear()
            return "a new conversation, with this system prompt"
        own = self.session.tokenizer.default_system
        return self.system if self.system is not None else own if own is not None else "(the template's own)"

    def _again(self) -> str:
        if self._last_question is None:
            raise ConfigError("nothing has been asked yet")
        if self.session.turns and self.session.turns[-1]["role"] == "assistant":
            del self.session.turns[-2:]
        return self._last_question

    def _set(self, text: str) -> str:
        if text:
            name, _, value = text.replace("=", " ").partition(" ")
            self.set(name.replace("-", "_"), value.strip())
        thinking = "on" if self.session.enable_thinking else "off"
        s = self.sampling
        return (
            f"temperature {s.temperature:g}, top_p {s.top_p:g}, max_new_tokens {s.max_new_tokens}, "
            f"thinking {thinking}, seed {self.seed}"
        )

    def set(self, name: str, value: str) -> None:
        """Change one setting.

        Raises:
            ConfigError: no such setting, or the value is out of its limits.
        """
        try:
            if name == "temperature":
                self.sampling = replace(self.sampling, temperature=_within(float(value), 0, 100))
            elif name == "top_p":
                self.sampling = replace(self.sampling, top_p=_within(float(value), 1e-9, 1))
            elif name == "max_new_tokens":
                self.sampling = replace(self.sampling, max_new_tokens=int(_within(int(value), 1, 1e9)))
            elif name == "seed":
                self.seed = int(value)
                torch.manual_seed(self.seed)
            elif name == "thinking":
                self.session.enable_thinking = {"on": True, "off": False}[value]
                self.warn_of_thinking()
            else:
                known = "temperature, top_p, max_new_tokens, thinking, seed"
                raise ConfigError(f"no setting `{name}`", hint=f"the settings are {known}")
        except (ValueError, KeyError):
            raise ConfigError(f"`{value}` is not a value of `{name}`") from None


def open_chat(
    names: str | Path | Sequence[str | Path],
    *,
    base: str | None = None,
    system: str | None = None,
    thinking: bool = False,
    sampling: Sampling | None = None,
    bits: int | None = None,
    seed: int = 0,
    verify: Verify | None = None,
) -> Chat:
    """Load a base model and adapters on it, to chat with: what ``qlora-fast chat`` does.

    Args:
        names: one or several of: a run's folder, ``best``, ``last`` or a checkpoint in it, an adapter's folder; or one base
            model.
        base: the base model, if it is no longer where it was at training.
        system: system prompt instead of the one of the training.
        thinking: let a thinking model think.
        sampling: how tokens are chosen; default: always the most likely one, 256 at most.
        bits: load the base model quantized, in 4 or 8 bits.
        seed: equal seeds give equal answers.
        verify: what is verified of adapters and a merged model: ``full``, ``quick`` or ``off``; default what the run says.

    Raises:
        ArtifactError: a name is nothing of this kind, or the adapters have different base models.
        TokenizerError: the base model has another tokenizer than at training.

    Example:
        >>> chat = qlora_fast.open_chat("runs/mine", sampling=qlora_fast.Sampling(max_new_tokens=8))
        >>> answer = "".join(chat.ask("Who are you?"))
        >>> chat.session.generated <= 8
        True
    """
    targets = [target_of(name) for name in ([names] if isinstance(names, str | Path) else names)]
    if len(targets) > 1 and any(target.kind == "model" for target in targets):
        odd = next(target for target in targets if target.kind == "model")
        raise ArtifactError(
            f"`{odd.name}` is a base model, not an adapter", hint="give several adapters, or one base model"
        )
    adapted = [target for target in targets if target.kind != "model"]
    folders = _named([target.adapter_folder(verify) for target in adapted])
    bases = {target.base(base): target for target in adapted} or {targets[0].base(base): targets[0]}
    if len(bases) > 1:
        raise ArtifactError(
            f"these adapters have different base models: {', '.join(bases)}",
            hint="only adapters of one base model share a chat; if it is the same model under two names, give --base",
        )
    name = next(iter(bases))
    tokenizers = {n: target.tokenizer(name) for n, target in zip(folders, adapted, strict=True)}
    tokenizers[BASE] = next(iter(tokenizers.values()), None) or targets[0].tokenizer(name)
    first = next(iter(tokenizers))
    device = pick_device()
    quantization = None if bits is None else Quantization(bits=bits)
    path = hub.model_path(name, targets[0].verify_level(verify))
    model = load_chat_model(path, folders, pick_dtype("auto", device), device, quantization)
    limit = getattr(model.config, "max_position_embeddings", None)
    session = ChatSession(model, tokenizers[first], thinking, limit=limit)

    def switch(adapter: str | None) -> None:
        if folders:
            use_adapter(model, adapter)

    without_thoughts = {
        n
        for n, target in zip(folders, adapted, strict=True)
        if not target.config({"model_name_or_path": name}).enable_thinking
    }
    chat = Chat(session, sampling or Sampling(), tokenizers, switch, first, system, seed, without_thoughts)
    chat.warn_of_thinking()
    chat.clear()
    return chat


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """A name for each adapter: its folder's, preceded by its parent's where that is not enough.

    PEFT does not allow dots in names.
    """
    named: dict[str, Path] = {}
    for folder in folders:
        parts = folder.resolve().parts
        name = parts[-1]
        if name in (layout.BEST, layout.LAST) or layout.update_of(name) is not None or name in named:
            name = "/".join(parts[-2:])
        name = re.sub(r"[.\s]", "_", name)
        while name in named or name == BASE:
            name += "+"
        named[name] = folder
    return named


def _within(value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ValueError
    return value
