"""The table of settings as a JSON schema: editors complete and check a config with it while it is written."""

from __future__ import annotations

from typing import Any, get_origin

import msgspec

from qlora_fast.config.explain import text
from qlora_fast.config.foreign import RULES, TRANSLATED
from qlora_fast.config.keys import KEYS, TYPES, about, default


def schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12. Foreign keys are let through, but not offered."""
    foreign = "|".join(sorted({*RULES, *TRANSLATED}))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "qlora-fast config",
        "description": "Settings of a training run; see docs/configuration.md",
        "type": "object",
        "properties": {
            "extends": {"type": "string", "description": "another config to start from, relative to this file"},
            **{name: _property(name) for name in KEYS},
        },
        "patternProperties": {f"^({foreign})$": {"description": "read for LLaMA-Factory's sake: `config explain`"}},
        "additionalProperties": False,
    }


def _property(name: str) -> dict[str, Any]:
    known, kind = about(name), TYPES[name]
    unit = f" [{known.unit}]" if known.unit else ""
    offered = msgspec.json.schema(kind)
    kinds = [one for one in offered.get("anyOf", [offered]) if one != {"type": "null"}]
    for one in kinds:  # YAML reads an unquoted true as a boolean
        if "enum" in one:
            one["enum"] = [{"true": True, "false": False}.get(c, c) for c in one["enum"]]
    if get_origin(kind) in (list, dict):
        kinds.append({"type": "string"})
    if name == "packing":  # LLaMA-Factory's is a switch
        kinds.append({"type": "boolean"})
    description = f"{known.help}{unit} (default: {text(default(name))})"
    return {"description": description, "anyOf": [*kinds, {"type": "null"}]}
