"""What must hold between settings, and what has no effect without another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from qlora_fast.config.keys import default
from qlora_fast.config.keys.optim import SCHEDULE_ARGUMENTS, SCHEDULE_WORDS

if TYPE_CHECKING:
    from qlora_fast.config.config import Config


@dataclass(frozen=True, slots=True)
class Pair:
    """Two settings of which a run can have one."""

    first: str
    second: str
    reason: str = ""
    """Why they exclude each other, where that does not follow from what they are."""
    agree: Callable[[Any, Any], bool] = lambda first, second: False
    """Whether two values that are set mean the same and can be together."""

    def clash(self, values: dict[str, Any]) -> bool:
        """Whether both are set to something."""
        first, second = (values.get(name, default(name)) for name in (self.first, self.second))
        return bool(first) and bool(second) and second != "auto" and not self.agree(first, second)


EXCLUSIVE = (
    Pair("fp16", "bf16"),
    Pair("bf16", "dtype", agree=lambda _, dtype: dtype == "bf16"),
    Pair("fp16", "dtype", agree=lambda _, dtype: dtype == "fp16"),
    Pair("pissa_init", "quantization_bit", "a quantized base cannot hold exactly what PiSSA leaves of the weights"),
    Pair("pissa_init", "use_dora", "together they cannot be saved as a plain adapter"),
    Pair("offload_base", "shard_base", "a base is shared or in main memory", agree=lambda _, shard: shard == "off"),
    Pair("offload_base", "use_dora", "its start needs the base's whole weights"),
    Pair("offload_base", "pissa_init", "its start needs the base's whole weights"),
    Pair("torch_compile", "offload_base", "layers that come one by one are not compiled", lambda c, _: c != "true"),
    Pair(
        "torch_compile",
        "shard_base",
        "layers that come one by one are not compiled",
        lambda c, shard: c != "true" or shard == "off",
    ),
    Pair("eval_dataset", "val_size"),
    Pair("resume_from_checkpoint", "overwrite_output_dir", agree=lambda resume, _: resume == "auto"),
    Pair("mask_history", "train_on_prompt"),
)
"""Within one file they contradict each other; of a file and the command line, the command line wins."""


def cross_checks(config: Config) -> list[tuple[str, str]]:
    """Contradictions: (key, problem) pairs, all of them."""
    problems: list[tuple[str, str]] = _exclusive(config)
    for check in (_evaluation, _mixing, _rest, _schedule):
        problems += check(config)
    return problems


def _exclusive(config: Config) -> list[tuple[str, str]]:
    clashes = [pair for pair in EXCLUSIVE if pair.clash(vars(config))]
    return [
        (
            pair.first,
            f"cannot be combined with {pair.second}; give one of the two" + f" ({pair.reason})" * bool(pair.reason),
        )
        for pair in clashes
    ]


def _evaluation(config: Config) -> list[tuple[str, str]]:
    problems = []
    if config.eval_strategy != "no" and not config.has_eval:
        problems.append(("eval_strategy", "has nothing to evaluate on; set val_size or eval_dataset"))
    for name in ("load_best_model_at_end", "early_stopping_steps"):
        if getattr(config, name) and config.eval_strategy == "no":
            problems.append((name, "needs evaluations; set eval_strategy to steps or epoch"))
    if config.metric_for_best_model == "eval_accuracy" and not config.compute_accuracy:
        problems.append(("metric_for_best_model", "is eval_accuracy; set compute_accuracy: true"))
    if config.val_size >= 1 and config.val_size != int(config.val_size):
        problems.append(("val_size", "must be a share below 1 or a whole number of rows"))
    return problems


def _mixing(config: Config) -> list[tuple[str, str]]:
    problems, probs = [], config.interleave_probs
    if probs and config.mix_strategy == "concat":
        problems.append(("interleave_probs", "needs mix_strategy: interleave_under or interleave_over"))
    elif probs and len(probs) != len(config.dataset):
        problems.append(
            ("interleave_probs", f"has {len(probs)} shares for {len(config.dataset)} datasets; one for each")
        )
    if any(p <= 0 for p in probs):
        problems.append(("interleave_probs", "must all be greater than 0"))
    return problems


def _rest(config: Config) -> list[tuple[str, str]]:
    problems = []
    if config.pissa_iter == 0:
        problems.append(("pissa_iter", "must be -1 (exact) or at least 1"))
    if "none" in config.report_to and len(config.report_to) > 1:
        problems.append(("report_to", "names trackers and none"))
    return problems


def _schedule(config: Config) -> list[tuple[str, str]]:
    kind, given = config.lr_scheduler_type, config.lr_scheduler_kwargs
    known = SCHEDULE_ARGUMENTS[kind]
    problems = []
    for name, text in given.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(known) or 'none'}"
            problems.append(f"holds `{name}`, which {kind} does not take{hint}")
        elif name not in SCHEDULE_WORDS and not _is_number(text):
            problems.append(f"holds `{name}: {text}`, which is not a number")
    if kind == "cosine_with_min_lr" and len({"min_lr", "min_lr_rate"} & set(given)) != 1:
        problems.append("must hold either min_lr or min_lr_rate for cosine_with_min_lr")
    if kind == "warmup_stable_decay" and "num_decay_steps" not in given:
        problems.append("must hold num_decay_steps for warmup_stable_decay")
    return [("lr_scheduler_kwargs", p) for p in problems]


_NEEDS: dict[str, tuple[Callable[[Config], bool], str]] = {
    "quantization_type": (lambda c: c.quantization_bit == 4, "quantization_bit: 4"),
    "double_quantization": (lambda c: c.quantization_bit == 4, "quantization_bit: 4"),
    "pissa_iter": (lambda c: c.pissa_init, "pissa_init: true"),
    "loraplus_lr_embedding": (lambda c: c.loraplus_lr_ratio is not None, "loraplus_lr_ratio"),
    "warmup_ratio": (lambda c: c.lr_scheduler_type != "constant", "another lr_scheduler_type than constant"),
    "warmup_steps": (lambda c: c.lr_scheduler_type != "constant", "another lr_scheduler_type than constant"),
    "eval_steps": (lambda c: c.eval_strategy == "steps", "eval_strategy: steps"),
    "save_steps": (lambda c: c.save_strategy == "steps", "save_strategy: steps"),
    "run_name": (lambda c: bool(c.trackers), "report_to"),
    "project": (lambda c: bool(c.trackers), "report_to"),
}


def without_effect(config: Config, given: list[str]) -> dict[str, str]:
    """Keys that were set, and differ from their default, but need another one to matter: key → reason."""
    return {
        name: f"it needs {words}"
        for name, (matters, words) in _NEEDS.items()
        if name in given and getattr(config, name) != default(name) and not matters(config)
    }


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
