"""The settings of one run as one object that cannot hold a wrong one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qlora_fast.config.checks import cross_checks
from qlora_fast.config.convert import check
from qlora_fast.config.keys import TYPES, about
from qlora_fast.config.keys.data import PACKED, BatchKeys, DataKeys
from qlora_fast.config.keys.model import LoraKeys, ModelKeys
from qlora_fast.config.keys.optim import OptimKeys
from qlora_fast.config.keys.output import TRACKERS, EvalKeys, OutputKeys, Tracker
from qlora_fast.config.paths import expanded, settled_base
from qlora_fast.errors import ConfigError

Problem = tuple[str, str]
"""A key, and what is wrong with its value."""


class InvalidConfigError(ConfigError):
    """Settings that cannot be together, or one that is no value of its key; all problems at once.

    Attributes:
        problems: (key, what is wrong), in the order of the table.
    """

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(listed([f"`{name}` {problem}" for name, problem in problems]))
        self.problems = problems


def listed(problems: Sequence[str]) -> str:
    """The message of a config with these problems."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join([f"{count} in the config", *(f"  {p}" for p in problems)])


# Dataclasses take the fields of the last base first.
@dataclass(frozen=True, kw_only=True)
class Config(OutputKeys, EvalKeys, OptimKeys, BatchKeys, DataKeys, LoraKeys, ModelKeys):
    """One run, fully described, and valid: types, limits and contradictions are checked wherever it is made.

    :func:`qlora_fast.config.load` reads one from a file, :func:`qlora_fast.config.of` makes one of keyword arguments as a
    file would spell them. Paths are expanded (``~``, ``$NAME``); a base model that is a folder here becomes absolute.

    Raises:
        ConfigError: with every problem.

    Example:
        >>> config = qlora_fast.Config(dataset=["data.json"], lora_rank=16, gradient_accumulation_steps=4)
        >>> config.alpha, config.samples_per_update
        (32.0, 16)
        >>> qlora_fast.Config(lora_rank=0)
        Traceback (most recent call last):
        qlora_fast.config.config.InvalidConfigError: 1 problem in the config
          `lora_rank` must be a whole number of at least 1, not `0`
    """

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        for name, kind in TYPES.items():
            value, problem = check(getattr(self, name), kind)
            if problem is None and about(name).path:
                value, problem = expanded(value)
            if problem is not None:
                problems.append((name, problem))
                continue
            object.__setattr__(self, name, value)
        if not problems:
            object.__setattr__(self, "model_name_or_path", settled_base(self.model_name_or_path))
            problems = cross_checks(self)
        if problems:
            raise InvalidConfigError(problems)

    @property
    def alpha(self) -> float:
        """lora_alpha, or its default of twice the rank."""
        return 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha

    @property
    def scale(self) -> float:
        """alpha ÷ rank: the factor on the adapter's output (without rank stabilization)."""
        return self.alpha / self.lora_rank

    @property
    def samples_per_update(self) -> int:
        """Effective batch size: micro-batch × accumulation × devices."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size

    @property
    def precision(self) -> str:
        """dtype with the guide's bf16 and fp16 taken in: auto, bf16, fp16 or fp32."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else self.dtype

    @property
    def packed(self) -> bool:
        """Whether samples are concatenated into rows without padding."""
        return self.packing in PACKED

    @property
    def row_budget(self) -> int:
        """Tokens that a packed row may hold; where a run decides it (`auto`), and none is at hand, cutoff_len."""
        return self.max_tokens_per_row if isinstance(self.max_tokens_per_row, int) else self.cutoff_len

    @property
    def has_eval(self) -> bool:
        """Whether anything is held out or given to evaluate on."""
        return self.val_size > 0 or bool(self.eval_dataset)

    @property
    def trackers(self) -> tuple[Tracker, ...]:
        """The trackers of report_to, by name; all of them for `all`."""
        return TRACKERS if "all" in self.report_to else tuple(n for n in TRACKERS if n in self.report_to)
