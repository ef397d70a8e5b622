"""The table of settings as a JSON schema: editors complete and check a config with it while it is written."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from qlora_fast.config.convert import alternatives
from qlora_fast.config.explain import text
from qlora_fast.config.foreign import RULES, TRANSLATED
from qlora_fast.config.keys import KEYS, about, default
from qlora_fast.config.load import TYPES


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
    known = about(name)
    unit = f" [{known.unit}]" if known.unit else ""
    made = {"description": f"{known.help}{unit} (default: {text(default(name))})"}
    kinds = [{**_of(TYPES[name]), **(known.limit.schema if known.limit else {})}, {"type": "null"}]
    if get_origin(TYPES[name]) in (list, dict):
        kinds.insert(1, {"type": "string"})
    if name == "packing":  # LLaMA-Factory's is a switch
        kinds.insert(1, {"type": "boolean"})
    return {**made, "anyOf": kinds}


def _of(kind: Any) -> dict[str, Any]:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        offered = [_of(inner) for inner in alternatives(kind)]
        return offered[0] if len(offered) == 1 else {"type": [one["type"] for one in offered]}
    if origin is Literal:
        return {"enum": [{"true": True, "false": False}.get(c, c) for c in get_args(kind)]}
    if origin is list:
        return {"type": "array", "items": _of(get_args(kind)[0])}
    if origin is dict:
        return {"type": "object"}
    return {"type": {int: "integer", float: "number", bool: "boolean"}.get(kind, "string")}
