"""A chat with one base model and any number of adapters on it: loading them, and the words that begin with a slash.

The adapters lie side by side on one copy of the base (a few MB each), so swapping costs nothing and the same question can
be put to each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from qlora_fast.chat.session import ChatSession, Sampling, Turn, load_chat_model, use_adapter
from qlora_fast.config import of
from qlora_fast.data.tokenizer import Tokenizer, tokenizer_of
from qlora_fast.errors import ArtifactError, ConfigError
from qlora_fast.hub import resolve
from qlora_fast.model.load import Quantization, pick_device, pick_dtype
from qlora_fast.runs.adapter_card import check_tokenizer, read_card

BASE = "base"
"""What the base model without an adapter is called in /adapter."""
HELP = """\
/adapter [NAME]    show the adapters, or let another one speak; `base` is the model without any
/again             put the last question again (to another adapter, or with other settings)
/clear             forget the conversation
/system [TEXT]     show or set the system prompt; the conversation starts anew
/set [KEY VALUE]   show or set temperature, top_p, max_new_tokens, thinking (on, off), seed
/help              this
/exit              end the chat (or Ctrl-D); Ctrl-C stops an answer"""


@dataclass(slots=True)
class Chat:
    """A conversation, the adapters that can speak in it, and how they choose their words."""

    session: ChatSession
    sampling: Sampling
    speakers: dict[str, Tokenizer]
    switch: Callable[[str | None], None]
    speaker: str = BASE
    system: str | None = None
    seed: int = 0
    _last: str | None = field(default=None)

    def ask(self, text: str) -> str:
        """Note what is asked, so that /again can ask it once more."""
        self._last = text
        return text

    def clear(self) -> None:
        """Forget what was said. The system prompt stays."""
        start: list[Turn] = [] if self.system is None else [{"role": "system", "content": self.system}]
        self.session.turns = start
        torch.manual_seed(self.seed)

    def use(self, name: str) -> None:
        """Let another adapter speak, through the template that it was trained with.

        Raises:
            ConfigError: there is none of that name.
        """
        if name not in self.speakers:
            raise ConfigError(f"no adapter `{name}`", hint=f"there are {', '.join(self.speakers)}")
        self.switch(None if name == BASE else name)
        self.session.speak_through(self.speakers[name])
        self.speaker = name

    def command(self, line: str) -> tuple[str, str | None]:
        """Do what a line with a slash says.

        Returns:
            what to show, and what to ask now (only /again has that).

        Raises:
            ConfigError: no such command, or a value that cannot be. EOFError: /exit.
        """
        name, _, rest = line[1:].strip().partition(" ")
        rest = rest.strip()
        if name in ("exit", "quit"):
            raise EOFError
        if name == "help":
            return HELP, None
        if name == "clear":
            self.clear()
            return "the conversation is forgotten", None
        if name == "system":
            return self._system(rest), None
        if name == "adapter":
            if rest:
                self.use(rest)
            return "\n".join(f"{'→' if n == self.speaker else ' '} {n}" for n in self.speakers), None
        if name == "set":
            return self._set(rest), None
        if name == "again":
            return "", self._again()
        raise ConfigError(f"no command `/{name}`", hint="/help shows them")

    def _system(self, text: str) -> str:
        if text:
            self.system = text
            self.clear()
            return "the conversation starts anew"
        own = self.session.tokenizer.default_system
        return self.system if self.system is not None else own if own is not None else "(the template's own)"

    def _again(self) -> str:
        if self._last is None:
            raise ConfigError("nothing was asked yet")
        if self.session.turns and self.session.turns[-1]["role"] == "assistant":
            del self.session.turns[-2:]
        return self._last

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
            ConfigError: no such setting, or the value cannot be.
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
            else:
                known = "temperature, top_p, max_new_tokens, thinking, seed"
                raise ConfigError(f"no setting `{name}`", hint=f"there are {known}")
        except (ValueError, KeyError):
            raise ConfigError(f"`{name}` cannot be `{value}`") from None


def open_chat(
    names: Sequence[str], *, base: str | None, thinking: bool, sampling: Sampling, bits: int | None, seed: int
) -> Chat:
    """Load a base model and adapters on it. A base model's name alone is a chat without adapters.

    Raises:
        QloraFastError: anything that a user can mend.
    """
    folders = [Path(n) for n in names if Path(n).is_dir() and not (Path(n) / "config.json").is_file()]
    if len(folders) < len(names) and len(names) > 1:
        odd = next(n for n in names if Path(n) not in folders)
        raise ArtifactError(f"`{odd}` is no adapter's folder", hint="give several adapters, or one base model")
    adapters = _named(folders)
    speakers: dict[str, Tokenizer] = {}
    bases = {}
    for name, folder in adapters.items():
        card = read_card(folder)
        its_base = base or resolve.found_base(card["base_model"], folder)
        bases[its_base] = folder
        tokens = resolve.tokenizer_folder(its_base)
        check_tokenizer(card, resolve.digest(tokens / "tokenizer.json"), its_base)
        system = card["default_system"]
        speakers[name] = Tokenizer(tokens, card["template"], card["bos_token"], card["eos_token"], system)
    if len(bases) > 1:
        raise ArtifactError(
            f"these adapters are of different base models: {', '.join(bases)}",
            hint="only adapters of one base can be swapped; --base names it if it is the same under two names",
        )
    base = next(iter(bases), base or names[0])
    first = next(iter(speakers), BASE)
    speakers[BASE] = speakers[first] if adapters else tokenizer_of(of(model_name_or_path=base))
    device = pick_device()
    quantization = None if bits is None else Quantization(bits=bits)
    path = resolve.model_path(base)
    model = load_chat_model(path, adapters, pick_dtype("auto", device), device, quantization)
    limit = getattr(model.config, "max_position_embeddings", None)
    session = ChatSession(model, speakers[first], thinking, limit=limit)
    chat = Chat(session, sampling, speakers, lambda n: use_adapter(model, n) if adapters else None, first, seed=seed)
    chat.clear()
    return chat


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """A name for each adapter: its folder's, with its parent's where that says nothing or is taken.

    A dot would end the name inside PEFT.
    """
    named: dict[str, Path] = {}
    for folder in folders:
        parts = folder.resolve().parts
        name = parts[-1]
        if name in ("best", "last") or name.startswith("checkpoint-") or name in named:
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
