"""``qlora_fast.json``, stored beside an adapter: the base model, template and tokenizer that a chat with it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qlora_fast.data.tokenizer import Tokenizer
from qlora_fast.errors import ArtifactError, TokenizerError

CARD = "qlora_fast.json"
"""The file's name."""


def write_card(folder: Path, base: str, tokenizer: Tokenizer, tokenizer_digest: str) -> None:
    """Store beside an adapter the base model, tokenizer and chat template that it was trained with."""
    card = {
        "base_model": base,
        "template": tokenizer.template,
        "default_system": tokenizer.default_system,
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "tokenizer_sha256": tokenizer_digest,
    }
    (folder / CARD).write_text(json.dumps(card, ensure_ascii=False, indent=2), encoding="utf-8")


def read_card(folder: Path) -> dict[str, Any]:
    """What :func:`write_card` stored.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"`{path}` cannot be read: {error}") from None
    text = {"base_model", "template", "tokenizer_sha256"}
    optional = {"default_system", "bos_token", "eos_token"}
    sound = isinstance(card, dict) and all(isinstance(card.get(key), str) for key in text)
    if not sound or not all(isinstance(card.get(key, None), str | None) for key in optional):
        raise ArtifactError(f"`{path}` is damaged", hint="copy it from another adapter of the same run, or remove it")
    return {key: card.get(key) for key in (*text, *optional)}


def check_tokenizer(card: dict[str, Any], digest: str, base: str) -> None:
    """Refuse another tokenizer than the adapter was trained with."""
    if card["tokenizer_sha256"] != digest:
        raise TokenizerError(
            f"the tokenizer of `{base}` is not the one that the adapter was trained with",
            hint="give the base model of the training run: its tokenizer.json must be the same",
        )
