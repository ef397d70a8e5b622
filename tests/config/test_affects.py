"""The lists of settings that a run, a comparison and a sweep go by are computed; these are the ones that were kept by hand."""

from __future__ import annotations

from qlora_fast.config import KEYS, Config
from qlora_fast.config.keys import SECTIONS, about, affecting
from qlora_fast.config.keys.optim import SCHEDULE_ARGUMENTS
from qlora_fast.train import bnb_optimizer, schedule, trackers

FREE_AT_RESUME = {
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "logging_steps", "save_strategy", "save_steps",
    "save_total_limit", "eval_strategy", "eval_steps", "per_device_eval_batch_size", "compute_accuracy", "plot_loss",
    "load_best_model_at_end", "metric_for_best_model", "dataset", "dataset_dir", "eval_dataset", "prepared_dir", "engine",
    "verify", "threads", "world_size", "report_to", "run_name", "project", "per_device_train_batch_size",
    "gradient_accumulation_steps", "early_stopping_steps", "save_only_model", "gradient_checkpointing",
    "cuda_graphs",
}  # fmt: skip
NOT_COMPARED = {
    "lora_alpha", "per_device_train_batch_size", "gradient_accumulation_steps", "world_size", "max_tokens_per_row",
    "prepared_dir", "dataset_dir", "eval_dataset", "engine", "verify", "threads", "strict", "quantization_method",
    "kernels", "torch_compile",
}  # fmt: skip
SINCE = {"train_beyond_max_positions", "max_dropped_share", "dataset_outside", "shard_base", "offload_base"}
"""Keys that came after the lists were computed; they let a run begin or not or say where its base lies, and change nothing of it."""
SWEEP_IGNORES = {"output_dir", "overwrite_output_dir", "resume_from_checkpoint", "threads"}
CORE_OPTIONS = {
    "format", "variables", "cutoff_len", "truncation", "train_on_prompt", "mask_history", "enable_thinking",
    "max_samples", "deduplicate", "engine", "verify", "threads", "strict",
}  # fmt: skip


def test_what_may_change_at_resume() -> None:
    computed = set(KEYS) - set(affecting("data", "learning", "arithmetic"))
    # `strict` refuses data or leaves its bytes alone: the old list was wrong to hold a resumed run to it.
    assert computed - SINCE == FREE_AT_RESUME | {"strict"}


def test_what_runs_are_compared_by() -> None:
    sections = ("Model", "LoRA", "Data", "Batch", "Optimization")
    before = {name for title in sections for name in SECTIONS[title].__dataclass_fields__} - NOT_COMPARED
    computed = {name for name in affecting("data", "source", "learning") if not about(name).compared_as}
    # Recomputing activations and replaying rows change nothing that is learned: a resumed run was free to change it, and a comparison named it.
    assert computed - SINCE == before - SINCE - {"gradient_checkpointing", "cuda_graphs"}
    stand_ins = {about(name).compared_as for name in KEYS} - {""}
    assert all(name in KEYS or isinstance(getattr(Config, name), property) for name in stand_ins)


def test_what_a_sweep_may_change_in_a_run_that_is_there() -> None:
    # `engine`, `strict` and `prepared_dir` leave no trace in what a run computes either.
    assert set(affecting("nothing", "preparation")) - SINCE == SWEEP_IGNORES | {
        "engine",
        "strict",
        "verify",
        "prepared_dir",
    }


def test_the_options_that_the_core_is_given() -> None:
    assert set(affecting("data", "preparation")) - SINCE == CORE_OPTIONS


def test_each_name_of_a_choice_has_its_implementation() -> None:
    from typing import get_args

    from qlora_fast.config.keys.optim import Optimizer, Schedule
    from qlora_fast.config.keys.output import TRACKERS

    assert set(schedule.SHAPES) == set(get_args(Schedule)) == set(SCHEDULE_ARGUMENTS)
    assert set(bnb_optimizer.KINDS) | {"adamw_torch", "adamw_torch_fused"} == set(get_args(Optimizer))
    assert set(trackers._START) == set(TRACKERS)
