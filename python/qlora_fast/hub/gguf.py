"""The tokenizer inside a GGUF file, written as the ``tokenizer.json`` it was made from.

A GGUF stores tokens, merges and the *name* of the split pattern; what the name stands for is public knowledge of
llama.cpp (``llama-vocab.cpp``). Only byte-level BPE with a known name is rebuilt; anything else is refused, since a
wrong split pattern would silently give wrong ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qlora_fast.errors import TokenizerError

_BYTE_LEVEL: dict[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}
_GPT2: dict[str, Any] = {**_BYTE_LEVEL, "use_regex": True}
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def _split(pattern: str) -> list[dict[str, Any]]:
    return [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        _BYTE_LEVEL,
    ]


_PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_GPT2],
    "smollm": [{"type": "Digits", "individual_digits": True}, _GPT2],
    "qwen2": _split(_QWEN2),
    "llama-bpe": _split(_LLAMA3),
}
_NORMALIZERS: dict[str, dict[str, Any]] = {"qwen2": {"type": "NFC"}}
_CONTROL, _USER_DEFINED = 3, 4  # gguf.TokenType


def write_tokenizer(gguf: Path, folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` of a GGUF file into ``folder``.

    Raises:
        TokenizerError: the file's tokenizer is not a byte-level BPE with a known split pattern.
    """
    from gguf import GGUFReader  # ~0.5 s to import; needed once a model

    reader = GGUFReader(gguf)

    def value(name: str, default: Any = None) -> Any:
        found = reader.get_field(f"tokenizer.{name}")
        return default if found is None else found.contents()

    kind, pre = value("ggml.model"), value("ggml.pre")
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise TokenizerError(
            f"`{gguf}` holds a tokenizer of kind `{kind}/{pre}`, which cannot be rebuilt exactly",
            hint="give the model's own folder (with its tokenizer.json) as model_name_or_path",
        )
    tokens, types = value("ggml.tokens"), value("ggml.token_type")
    tokenizer = _tokenizer(pre, tokens, types, value("ggml.merges"))

    def token(name: str) -> str | None:
        index = value(f"ggml.{name}_token_id")
        return None if index is None else str(tokens[index])

    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding") or token("eos"),
        "unk_token": token("unknown"),
        "add_bos_token": bool(value("ggml.add_bos_token", False)),
        "chat_template": value("chat_template"),
        "clean_up_tokenization_spaces": False,
    }
    architecture = reader.get_field("general.architecture")
    positions = None if architecture is None else reader.get_field(f"{architecture.contents()}.context_length")
    if positions is not None:  # beside the tokenizer there is no config.json that says it
        config["model_max_length"] = int(positions.contents())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2), encoding="utf-8")


def _tokenizer(pre: str, tokens: Sequence[str], types: Sequence[int], merges: Sequence[str]) -> dict[str, Any]:
    """What tokenizer.json holds.

    Args:
        pre: GGUF's name of the split pattern.
        tokens: by id. types: GGUF's kind of each.
    """
    added = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token_type == _CONTROL,
        }
        for index, (token, token_type) in enumerate(zip(tokens, types, strict=True))
        if token_type in (_CONTROL, _USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": _NORMALIZERS.get(pre),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _PRE_TOKENIZERS[pre]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre == "llama-bpe",
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": merges,
        },
    }
