"""``qlora_fast.json``, stored beside an adapter: the base model, template and tokenizer that a chat with it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec import Struct

from qlora_fast.data.tokenizer import Tokenizer
from qlora_fast.errors import TokenizerError
from qlora_fast.hub import untrusted
from qlora_fast.runs.layout import CARD


class Card(Struct):
    """The fields of a card."""

    base_model: str
    template: str
    tokenizer_sha256: str
    default_system: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None


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
    """What :func:`write_card` stored, once the adapter's files are verified.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    hint = "copy it from another adapter of the same run, or remove it"
    card = untrusted.read_json(folder / CARD, Card, hint=hint)
    return {field: card.get(field) for field in Card.__struct_fields__}


def check_tokenizer(card: dict[str, Any], digest: str, base: str) -> None:
    """Refuse another tokenizer than the adapter was trained with."""
    if card["tokenizer_sha256"] != digest:
        raise TokenizerError(
            f"the tokenizer of `{base}` is not the one that the adapter was trained with",
            hint="give the base model of the training run: its tokenizer.json must be the same",
        )
