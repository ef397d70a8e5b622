"""Keys and values of other programs: translated, ignored with the reason, or refused by name; never guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from qlora_fast.config.foreign.rules import NOT_FOR_EYES, RULES, Rule

__all__ = [
    "NOT_FOR_EYES",
    "RENAMED",
    "RULES",
    "SO_HERE",
    "Fate",
    "Translation",
    "by_rule",
    "foreign_key",
    "foreign_value",
    "other_command",
]


Fate = Literal["used", "translated", "ignored", "refused", "unknown"]


_ON, _OFF = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class Translation:
    """What a foreign key or value says in the terms of this program; an empty ``key`` sets nothing."""

    fate: Fate
    reason: str
    key: str = ""
    value: str = ""


SO_HERE = Translation("used", "so here in any case")


def by_rule(rule: Rule, text: str) -> Translation:
    """What a value of a key without a translation means."""
    if text.lower() in rule.harmless:
        return SO_HERE
    return Translation("refused" if rule.refused else "ignored", rule.reason)


TRANSLATED = ("disable_gradient_checkpointing", "evaluation_strategy", "pure_bf16", "neat_packing", "greater_is_better")
"""Foreign keys with a translation of their own."""


def foreign_key(name: str, text: str) -> Translation | None:
    """What a key that is not ours says in the terms of this program, if it has a translation."""
    on = text.lower() in _ON
    match name:
        case "disable_gradient_checkpointing":
            return Translation(
                "translated", "said the other way round", "gradient_checkpointing", "false" if on else "true"
            )
        case "evaluation_strategy":
            return Translation("translated", "its older name", "eval_strategy", text)
        case "pure_bf16":
            reason = "the base is held in bf16; the adapter's own weights stay fp32, which is safer"
            return Translation("translated", reason, "bf16", "true") if on else SO_HERE
        case "neat_packing":
            reason = "full rows; samples never see each other here"
            return Translation("translated", reason, "packing", "dense") if on else SO_HERE
        case "greater_is_better":
            return Translation("ignored", "follows from metric_for_best_model")
        case "train_sampling_strategy" if text == "group_by_length":
            return Translation("ignored", "packing decides")
    return None


def _packing(text: str) -> Translation | None:
    match text.lower():
        case "true" | "yes" | "on":
            return Translation(
                "translated", "full rows, fewer updates; samples never see each other here", "packing", "dense"
            )
        case "false" | "no" | "off":
            return Translation("translated", "the same samples per optimizer step, without padding", "packing", "exact")
    return None


def _max_steps(text: str) -> Translation | None:
    return Translation("used", "-1 is unset") if text == "-1" else None


def _warmup_steps(text: str) -> Translation | None:
    try:
        share = 0 < float(text) < 1
    except ValueError:
        return None
    return Translation("translated", "below 1 it is a share", "warmup_ratio", text) if share else None


def _metric(text: str) -> Translation | None:
    if text in ("loss", "accuracy"):
        return Translation("translated", "its full name", "metric_for_best_model", f"eval_{text}")
    return None


def _dataset_dir(text: str) -> Translation | None:
    if text == "ONLINE" or text.startswith("REMOTE:"):
        return Translation("refused", "data is read from files: download it, and give its folder")
    return None


def _zero_is_unset(text: str) -> Translation | None:
    return Translation("used", "0 is unset") if text in ("0", "0.0") else None


def _method(text: str) -> Translation | None:
    return Translation("translated", "its short name", "quantization_method", "bnb") if text == "bitsandbytes" else None


_VALUES: dict[str, Callable[[str], Translation | None]] = {
    "packing": _packing,
    "max_steps": _max_steps,
    "warmup_steps": _warmup_steps,
    "metric_for_best_model": _metric,
    "dataset_dir": _dataset_dir,
    "quantization_method": _method,
    "neftune_noise_alpha": _zero_is_unset,
    "early_stopping_steps": _zero_is_unset,
}


def foreign_value(name: str, text: str) -> Translation | None:
    """What a foreign value of one of our keys says in the terms of this program; None where it is an ordinary value."""
    translate = _VALUES.get(name)
    return translate(text) if translate else None


_ELSEWHERE = {
    "export_dir": ("merges an adapter into its base", "qlora-fast merge RUN -o FOLDER"),
    "infer_backend": ("answers prompts", "qlora-fast chat RUN"),
    "do_eval": ("evaluates", "qlora-fast evaluate RUN dataset=FILE"),
}
"""Keys of LLaMA-Factory's files that do not train: what such a file does, and the command that does it here."""


def other_command(values: Mapping[str, object]) -> list[str]:
    """What is wrong with a file that does not train: it is for another command. Nothing where ``do_train`` is true."""
    if str(values.get("do_train")).lower() in _ON:
        return []
    meant = [name for name in _ELSEWHERE if str(values.get(name) or "").lower() not in ("", *_OFF)]
    return [
        f"a file with `{name}` and without `do_train: true` {does}: `{command}`"
        for name in meant
        for does, command in [_ELSEWHERE[name]]
    ]


RENAMED: dict[str, str] = {
    "quantization_bits": "quantization_bit",
    "load_in_4bit": "quantization_bit",
    "load_in_8bit": "quantization_bit",
    "cutoff_length": "cutoff_len",
    "max_seq_length": "cutoff_len",
    "sequence_len": "cutoff_len",
    "lora_r": "lora_rank",
    "target_modules": "lora_target",
    "lora_target_modules": "lora_target",
    "modules_to_save": "additional_target",
    "base_model": "model_name_or_path",
    "model": "model_name_or_path",
    "train_dataset": "dataset",
    "datasets": "dataset",
    "micro_batch_size": "per_device_train_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_device_batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "max_len": "cutoff_len",
    "max_seq_len": "cutoff_len",
    "model_name": "model_name_or_path",
    "model_path": "model_name_or_path",
    "model_id": "model_name_or_path",
    "data": "dataset",
    "data_path": "dataset",
    "train_file": "dataset",
    "rank": "lora_rank",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "warmup": "warmup_ratio",
    "scheduler": "lr_scheduler_type",
    "eval_ratio": "val_size",
    "validation_split": "val_size",
    "output": "output_dir",
    "gradient_accumulation": "gradient_accumulation_steps",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "val_set_size": "val_size",
    "chat_template": "template",
    "sample_packing": "packing",
    "loraplus_lr": "loraplus_lr_ratio",
}
"""Spellings of other tools, offered as the hint."""
