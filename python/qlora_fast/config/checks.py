"""What must hold between settings, and what has no effect beside others."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from qlora_fast.config.keys import Config, default
from qlora_fast.config.keys.optim import SCHEDULE_ARGUMENTS, SCHEDULE_WORDS


def cross_checks(config: Config) -> list[tuple[str, str]]:
    """Contradictions: (key, problem) pairs, all of them."""
    problems: list[tuple[str, str]] = []
    for check in (_numbers, _evaluation, _mixing, _rest, _schedule):
        problems += check(config)
    return problems


def _numbers(config: Config) -> list[tuple[str, str]]:
    problems = []
    if config.bf16 and config.fp16:
        problems.append(("fp16", "stands beside bf16; give one of the two"))
    for name in ("bf16", "fp16"):
        if getattr(config, name) and config.dtype not in ("auto", name):
            problems.append((name, f"contradicts dtype: {config.dtype}"))
    if config.pissa_init and config.quantization_bit:
        problems.append(
            (
                "pissa_init",
                "takes the principal part out of the base weights, and a base of "
                f"{config.quantization_bit} bits cannot hold what is left exactly; leave one of the two out",
            )
        )
    if config.pissa_init and config.use_dora:
        problems.append(
            ("pissa_init", "cannot be saved as a plain adapter together with use_dora; give one of the two")
        )
    if config.pissa_iter == 0:
        problems.append(("pissa_iter", "must be -1 (exact) or at least 1"))
    return problems


def _evaluation(config: Config) -> list[tuple[str, str]]:
    problems = []
    if config.eval_dataset and config.val_size > 0:
        problems.append(("eval_dataset", "stands beside val_size; give one of the two"))
    if config.eval_strategy != "no" and not config.has_eval:
        problems.append(("eval_strategy", "has nothing to evaluate on; set val_size or eval_dataset"))
    for name in ("load_best_model_at_end", "early_stopping_steps"):
        if getattr(config, name) and config.eval_strategy == "no":
            problems.append((name, "needs evaluations; set eval_strategy to steps or epoch"))
    if config.metric_for_best_model == "eval_accuracy" and not config.compute_accuracy:
        problems.append(("metric_for_best_model", "is eval_accuracy; set compute_accuracy: true"))
    if config.val_size >= 1 and config.val_size != int(config.val_size):
        problems.append(("val_size", "from 1 on it is a count and must be whole"))
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
    if config.overwrite_output_dir and config.resume_from_checkpoint:
        problems.append(("resume_from_checkpoint", "stands beside overwrite_output_dir; give one of the two"))
    if config.train_on_prompt and config.mask_history:
        problems.append(("mask_history", "stands beside train_on_prompt; give one of the two"))
    if "none" in config.report_to and len(config.report_to) > 1:
        problems.append(("report_to", "names trackers beside none"))
    return problems


def _schedule(config: Config) -> list[tuple[str, str]]:
    kind, given = config.lr_scheduler_type, config.lr_scheduler_kwargs
    known = SCHEDULE_ARGUMENTS[kind]
    problems = []
    for name, text in given.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            mend = f"; did you mean {near[0]}?" if near else f"; it knows {', '.join(known) or 'none'}"
            problems.append(f"holds `{name}`, which {kind} does not know{mend}")
        elif name not in SCHEDULE_WORDS and not _is_number(text):
            problems.append(f"holds `{name}: {text}`, which is no number")
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
