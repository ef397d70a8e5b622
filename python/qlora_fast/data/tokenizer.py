"""A model's tokenizer, and the chat template that prompts and training data are rendered with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qlora_fast import _core
from qlora_fast.config import Config
from qlora_fast.data import templates
from qlora_fast.hub import resolve
from qlora_fast.hub.cache import cache_dir


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer and the chat template that goes with it."""

    folder: Path
    template: str
    bos_token: str | None
    eos_token: str | None
    default_system: str | None
    engine: str = "auto"
    template_note: str | None = None
    """What a report should say of the template: that it is not quite the model's own, for one."""

    @property
    def template_name(self) -> str:
        return templates.name_of(self.template)

    @property
    def file(self) -> str:
        return str(self.folder / "tokenizer.json")

    def encoder(self) -> _core.ChatEncoder:
        """Renders and encodes conversations exactly as the training data was."""
        return _core.ChatEncoder(
            self.file,
            self.template,
            engine=self.engine,
            default_system=self.default_system,
            bos_token=self.bos_token,
            eos_token=self.eos_token,
            cache=cache_dir(),
        )


def tokenizer_of(config: Config) -> Tokenizer:
    """The model's tokenizer, and the template that the config means for it.

    Raises:
        TokenizerError: no tokenizer, an unknown template, or none that fits the model.
        ConfigError: a template file with mistakes in it.
    """
    return tokenizer_for(config)[1]


def tokenizer_for(config: Config) -> tuple[templates.Own, Tokenizer]:
    """:func:`tokenizer_of`, with what the model's files say of its own template."""
    own = own_template(config.model_name_or_path)
    chosen = templates.choose(config.template, own)
    return own, Tokenizer(
        own.tokenizer.parent,
        chosen.source,
        own.bos_token,
        own.eos_token,
        config.default_system,
        config.engine,
        chosen.note,
    )


def own_template(model: str) -> templates.Own:
    """What the model's tokenizer files say of its chat template and tokens.

    Raises:
        TokenizerError: the model has no tokenizer.
    """
    folder = resolve.tokenizer_folder(model)
    settings = resolve.read_tokenizer_config(folder)
    chat_template = _default_of(settings.get("chat_template"))
    bos, eos = _token(settings.get("bos_token")), _token(settings.get("eos_token"))
    return templates.Own(model, folder / "tokenizer.json", bos, eos, chat_template)


def _default_of(value: object) -> str | None:
    """A chat template, or the default one of several (a list of name and template, in older files)."""
    if isinstance(value, list):
        named = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _token(value: object) -> str | None:
    """A special token of tokenizer_config.json: text, or an object with its text as ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
