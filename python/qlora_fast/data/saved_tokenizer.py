"""The tokenizer's files beside an adapter or a merged model, with the chat template and stop token of the training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from qlora_fast.data import templates
from qlora_fast.data.template_jinja import Trained, trained_template
from qlora_fast.data.tokenizer import Tokenizer
from qlora_fast.hub import untrusted

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
REPLACED = "chat_template.base.jinja"
"""The base model's own chat template, where another one was trained."""


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> list[str]:
    """Copy the tokenizer's files into ``folder``, with the chat template that the model was trained with.

    Returns:
        notes for the user: whether the template replaces the model's own, and what of it could not be written.
    """
    for name in FILES:
        if (tokenizer.folder / name).is_file():
            shutil.copyfile(tokenizer.folder / name, folder / name)
    trained = trained_template(tokenizer)
    name = templates.name_of(tokenizer.template)
    if trained.problem is not None:
        return [f"the chat template of the training is not in the folder: {trained.problem}"]
    if trained.text is None:
        return []
    if trained.own is not None:
        (folder / REPLACED).write_text(trained.own, encoding="utf-8")
    (folder / "chat_template.jinja").write_text(trained.text, encoding="utf-8")
    _change(folder / untrusted.TOKENIZER_CONFIG, {"chat_template": trained.text})
    return [_note(name, trained)]


def save_stop_tokens(tokenizer: Tokenizer, folder: Path) -> list[str]:
    """Make generation stop where the training ended answers: ``generation_config.json`` and the tokenizer's ``eos_token``.

    The base model's own stop tokens stay, after those of the training.

    Returns:
        a note for the user if anything changed.
    """
    from tokenizers import Tokenizer as Decoder

    decoder = Decoder.from_file(tokenizer.file)
    # The token that ends an answer comes first, before the end of the text.
    stops = sorted(
        map(int, tokenizer.encoder().stop_ids()), key=lambda i: decoder.id_to_token(i) == tokenizer.eos_token
    )
    path = folder / untrusted.GENERATION_CONFIG
    settings = untrusted.read_optional(path, untrusted.GenerationConfig) or {
        key: value
        for key, value in untrusted.read_optional(folder / untrusted.MODEL_CONFIG, untrusted.ModelConfig).items()
        if key in ("bos_token_id", "eos_token_id", "pad_token_id") and value is not None
    }
    own = settings.get("eos_token_id")
    before = [i for i in (own if isinstance(own, list) else [own]) if isinstance(i, int)]
    after = list(dict.fromkeys([*stops, *before]))
    if not stops or after == before:
        return []
    path.write_text(
        json.dumps({**settings, "eos_token_id": after if len(after) > 1 else after[0]}, indent=2), encoding="utf-8"
    )
    text = decoder.id_to_token(stops[0])
    if stops[0] not in before:
        _change(folder / untrusted.TOKENIZER_CONFIG, {"eos_token": text})
    return [f"generation stops at `{text}`, which ends the answers of the training (generation_config.json)"]


def _note(name: str, trained: Trained) -> str:
    where = f"; the base model's own is kept in {REPLACED}" if trained.own is not None else ", the base model has none"
    lacks = f"; rendered otherwise than in training: {', '.join(trained.lacks)}" if trained.lacks else ""
    return f"chat_template.jinja is `{name}`, the chat template of the training{where}{lacks}"


def _change(path: Path, values: dict[str, Any]) -> None:
    settings = untrusted.read_optional(path, untrusted.TokenizerConfig) | values
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")
