"""``qlora_fast.json``, stored beside an adapter: the base model, template and tokenizer that a chat with it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qlora_fast.data.tokenizer import Tokenizer
from qlora_fast.errors import ArtifactError, TokenizerError

CARD = "qlora_fast.json"
"""Stands beside an adapter and says how to talk to it: base model, template, system prompt, tokenizer."""


def write_card(folder: Path, base: str, tokenizer: Tokenizer, tokenizer_digest: str) -> None:
    """Store beside an adapter how it was trained to be talked to."""
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
        ArtifactError: the folder is no adapter of this program.
    """
    if not (folder / "adapter_config.json").is_file():
        raise no_adapter(folder)
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"`{folder}` does not say how to talk to its adapter: {CARD} is missing",
            hint="it was trained by another program; give a folder that qlora-fast wrote",
        ) from None
    return card


def no_adapter(folder: Path) -> ArtifactError:
    """What to say of a folder without an adapter: of a stopped run, or a folder of runs, which of its folders have one."""
    inside = sorted(file.parent for file in folder.glob("[!.]*/adapter_config.json"))
    there = ", ".join(f"`{path}`" for path in inside[:6])
    hint = f"there is one in {there}" if there else "give the output_dir of a finished run, or a checkpoint in it"
    return ArtifactError(f"`{folder}` holds no adapter", hint=hint)


def check_tokenizer(card: dict[str, Any], digest: str, base: str) -> None:
    """Refuse to talk through another tokenizer than the adapter was trained with."""
    if card["tokenizer_sha256"] != digest:
        raise TokenizerError(
            f"the tokenizer of `{base}` is not the one that the adapter was trained with",
            hint="use the base model of the training run: its tokenizer.json must be the same file",
        )
