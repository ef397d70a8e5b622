"""Every setting, once: its name, type, default, limits, unit and effect.

The names are the guide's and LLaMA-Factory's. This table drives the YAML reader, the `key=value` overrides, the command
line's help, the JSON schema and the documentation; a setting that is not here does not exist.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, fields
from typing import Any

from qlora_fast.config.keys.data import BatchKeys, DataKeys
from qlora_fast.config.keys.model import LoraKeys, ModelKeys
from qlora_fast.config.keys.optim import OptimKeys
from qlora_fast.config.keys.output import TRACKERS, EvalKeys, OutputKeys
from qlora_fast.config.keys.table import About

SECTIONS: dict[str, type] = {
    "Model": ModelKeys,
    "LoRA": LoraKeys,
    "Data": DataKeys,
    "Batch": BatchKeys,
    "Optimization": OptimKeys,
    "Evaluation": EvalKeys,
    "Output": OutputKeys,
}


# Dataclasses take the fields of the last base first.
@dataclass(frozen=True, kw_only=True)
class Config(OutputKeys, EvalKeys, OptimKeys, BatchKeys, DataKeys, LoraKeys, ModelKeys):
    """One run, fully described. Built by :func:`qlora_fast.config.load`; equal configs give equal runs."""

    @property
    def alpha(self) -> float:
        """lora_alpha, or its default of twice the rank."""
        return 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha

    @property
    def precision(self) -> str:
        """dtype with the guide's bf16 and fp16 taken in: auto, bf16, fp16 or fp32."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else self.dtype

    @property
    def row_budget(self) -> int:
        """Tokens that a packed row may hold."""
        return self.max_tokens_per_row or self.cutoff_len

    @property
    def has_eval(self) -> bool:
        """Whether anything is held out or given to evaluate on."""
        return self.val_size > 0 or bool(self.eval_dataset)

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers of report_to, by name; all of them for `all`."""
        return TRACKERS if "all" in self.report_to else tuple(n for n in TRACKERS if n in self.report_to)


KEYS: dict[str, Field[Any]] = {f.name: f for f in fields(Config)}


def about(name: str) -> About:
    """What is known of a key."""
    found: About = KEYS[name].metadata["about"]
    return found


def default(name: str) -> Any:
    """The value of a key that nobody sets."""
    return getattr(Config(), name)
