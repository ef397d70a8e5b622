"""Every setting, once: its name, type, default, limits, unit and effect, and what it affects.

The names are the guide's and LLaMA-Factory's. This table drives the YAML reader, the `key=value` overrides, the command
line's help, the JSON schema and the documentation; a setting that is not here does not exist.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

from qlora_fast.config.keys.data import BatchKeys, DataKeys
from qlora_fast.config.keys.model import LoraKeys, ModelKeys
from qlora_fast.config.keys.optim import OptimKeys
from qlora_fast.config.keys.output import EvalKeys, OutputKeys
from qlora_fast.config.keys.table import About, Affects

SECTIONS: dict[str, type] = {
    "Model": ModelKeys,
    "LoRA": LoraKeys,
    "Data": DataKeys,
    "Batch": BatchKeys,
    "Optimization": OptimKeys,
    "Evaluation": EvalKeys,
    "Output": OutputKeys,
}
KEYS: dict[str, Field[Any]] = {f.name: f for section in SECTIONS.values() for f in fields(section)}
TYPES: dict[str, Any] = {
    name: kind for section in SECTIONS.values() for name, kind in get_type_hints(section, include_extras=True).items()
}
"""The type of each key with its limits."""


def about(name: str) -> About:
    """What is known of a key."""
    found: About = KEYS[name].metadata["about"]
    return found


def affecting(*what: Affects) -> tuple[str, ...]:
    """The keys that affect one of these, in the order of the table."""
    return tuple(name for name in KEYS if about(name).affects in what)


def default(name: str) -> Any:
    """The value of a key that is not set."""
    field = KEYS[name]
    return field.default if field.default_factory is MISSING else field.default_factory()
