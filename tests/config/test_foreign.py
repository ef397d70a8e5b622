"""A LLaMA-Factory file for supervised LoRA training loads unchanged, and `explain` tells the truth about each key."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from paths import FIXTURES, ROOT
from qlora_fast.config import KEYS, Config, Verdict, dump, examine, load
from qlora_fast.config.explain import report
from qlora_fast.config.foreign import RENAMED, RULES, TRANSLATED
from qlora_fast.config.keys import default
from qlora_fast.errors import ConfigError

FILES = FIXTURES / "llamafactory"


def verdicts(name: str, *overrides: str) -> dict[str, Verdict]:
    return {v.key: v for v in examine(FILES / name, overrides).verdicts}


def examined(tmp_path: Path, text: str, *overrides: str) -> tuple[dict[str, Verdict], Config]:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    loaded = load(path, overrides)
    return {v.key: v for v in loaded.verdicts}, loaded.config


@pytest.mark.parametrize("name", ["lora_sft", "qlora_bnb", "multi_gpu", "with_eval", "pissa"])
def test_an_sft_file_loads_unchanged(name: str) -> None:
    loaded = load(FILES / f"{name}.yaml")
    assert {v.fate for v in loaded.verdicts} <= {"used", "translated", "ignored"}


@pytest.mark.parametrize("path", sorted(FILES.glob("*.yaml")), ids=lambda p: p.stem)
def test_explain_is_true_of_the_config_it_explains(path: Path, tmp_path: Path) -> None:
    """What is said to be used is in the config with that value; what is said to be ignored changes nothing."""
    reading = examine(path)
    if reading.config is None:
        assert reading.problems
        assert {v.fate for v in reading.verdicts} & {"refused", "unknown"}
        return
    stands_for: dict[str, str] = {}
    for verdict in reading.verdicts:
        if verdict.fate == "translated":
            stands_for |= verdict.becomes
        if verdict.fate == "ignored":
            assert verdict.reason
            lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{verdict.key}:")]
            assert examine_text(tmp_path, lines) == reading.config
        if verdict.fate == "used" and verdict.key in KEYS and verdict.value is not None and verdict.value != "-1":
            stands_for[verdict.key] = verdict.value
    again = examine_text(tmp_path, [f"{key}: {_yaml(value)}" for key, value in stands_for.items()])
    assert again == reading.config


def examine_text(folder: Path, lines: list[str]) -> Config | None:
    (folder / "again.yaml").write_text("\n".join(lines), encoding="utf-8")
    return examine(folder / "again.yaml").config


def _yaml(value: Any) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, list) else f"'{value}'"


def test_the_settings_of_the_examples_arrive() -> None:
    plain = load(FILES / "lora_sft.yaml").config
    assert (plain.dataset, plain.learning_rate, plain.bf16) == (["identity.json", "alpaca_en_demo.json"], 1e-4, True)
    qlora = load(FILES / "qlora_bnb.yaml").config
    assert (qlora.packing, qlora.max_steps, qlora.warmup_ratio, qlora.warmup_steps) == ("dense", None, 0.03, 0)
    assert (qlora.gradient_checkpointing, qlora.optim) == ("true", "paged_adamw_8bit")
    several = load(FILES / "multi_gpu.yaml").config
    assert several.lr_scheduler_kwargs == {"min_lr_rate": "0.1"}
    assert (several.packing, several.trackers) == ("exact", ("tensorboard", "wandb"))
    watched = load(FILES / "with_eval.yaml").config
    assert (watched.eval_strategy, watched.metric_for_best_model) == ("steps", "eval_accuracy")


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("refused_deepspeed", {"deepspeed"}),
        ("refused_ray", {"dataset_dir", "ray_num_workers"}),
        ("refused_dpo", {"stage"}),
        ("refused_full", {"finetuning_type", "use_galore", "use_badam", "use_unsloth", "quantization_bit"}),
    ],
)
def test_what_is_not_supported_is_refused_by_name(name: str, refused: set[str]) -> None:
    found = verdicts(f"{name}.yaml")
    assert {v.key for v in found.values() if v.fate == "refused"} == refused
    assert all(found[key].reason for key in refused)
    with pytest.raises(ConfigError) as caught:
        load(FILES / f"{name}.yaml")
    assert all(f"`{key}" in str(caught.value) for key in refused)


def test_no_argument_of_llamafactory_or_of_the_hugging_face_trainer_is_unknown() -> None:
    transformers = pytest.importorskip("transformers")
    lines = (FILES / "arguments.txt").read_text().splitlines()
    names = {name for line in lines if not line.startswith("#") for name in line.split()}
    assert len(names) > 270
    names |= {f.name for f in fields(transformers.Seq2SeqTrainingArguments)}
    unknown = names - set(KEYS) - set(RULES) - set(TRANSLATED)
    assert not unknown


def test_the_tables_do_not_overlap() -> None:
    assert not set(KEYS) & (set(RULES) | set(TRANSLATED) | set(RENAMED))
    assert not set(RULES) & (set(TRANSLATED) | set(RENAMED))
    assert set(RENAMED.values()) <= set(KEYS)


@pytest.mark.parametrize("name", sorted({*RULES, *TRANSLATED}))
def test_every_foreign_key_has_a_fate_with_a_reason(name: str, tmp_path: Path) -> None:
    for value in ("true", "false", "7", "word"):
        (tmp_path / "x.yaml").write_text(f"{name}: {value}\n")
        (verdict,) = examine(tmp_path / "x.yaml").verdicts
        assert verdict.fate in ("used", "translated", "ignored", "refused")
        assert verdict.reason
    (tmp_path / "x.yaml").write_text(f"{name}: null\n")
    assert load(tmp_path / "x.yaml").config == Config()


def test_nested_values_are_read_where_their_key_is_not_ours(tmp_path: Path) -> None:
    found, _ = examined(tmp_path, "ray_init_kwargs:\n  runtime_env:\n    pip: [a, b]\n")
    assert found["ray_init_kwargs"].fate == "ignored"
    with pytest.raises(ConfigError, match="`lora_rank` must be a flat mapping"):
        examined(tmp_path, "lora_rank:\n  a:\n    b: c\n")


def test_secrets_are_never_shown() -> None:
    found = report(examine(FILES / "multi_gpu.yaml"))
    assert "hf_secret" not in str(found)


def test_a_translation_that_contradicts_a_setting_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`neat_packing` contradicts `packing`"):
        examined(tmp_path, "packing: exact\nneat_packing: true\n")
    found, config = examined(tmp_path, "packing: true\nneat_packing: true\n")
    assert config.packing == "dense"
    assert found["neat_packing"].becomes == {"packing": "dense"}


def test_the_command_line_has_the_last_say_over_a_translation(tmp_path: Path) -> None:
    found, config = examined(tmp_path, "neat_packing: true\n", "packing=exact")
    assert config.packing == "exact"
    assert (found["neat_packing"].fate, found["packing"].fate) == ("ignored", "used")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("quantization_type: fp4\n", "quantization_type"),
        ("lr_scheduler_type: constant\nwarmup_ratio: 0.1\n", "warmup_ratio"),
        ("eval_steps: 7\n", "eval_steps"),
        ("pissa_iter: 4\n", "pissa_iter"),
        ("run_name: x\n", "run_name"),
    ],
)
def test_a_setting_that_needs_another_one_is_reported_as_without_effect(text: str, key: str, tmp_path: Path) -> None:
    found, _ = examined(tmp_path, text)
    assert found[key].fate == "ignored"
    assert "it needs" in found[key].reason


def test_other_defaults_are_shown_for_files_of_llamafactory_alone() -> None:
    shown = {row["key"]: row for row in report(examine(FILES / "pissa.yaml"))["other_defaults"]}
    assert shown["per_device_train_batch_size"] == {
        "key": "per_device_train_batch_size",
        "llamafactory": "8",
        "here": str(default("per_device_train_batch_size")),
    }
    assert "learning_rate" not in shown
    assert report(examine(ROOT / "configs" / "base.yaml"))["other_defaults"] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bf16: true\nfp16: true", "`fp16` cannot be combined with bf16"),
        ("fp16: true\ndtype: fp32", "`fp16` cannot be combined with dtype"),
        ("pissa_init: true\nquantization_bit: 4", "cannot be combined with quantization_bit"),
        ("early_stopping_steps: 3", "needs evaluations"),
        ("train_on_prompt: true\nmask_history: true", "cannot be combined with train_on_prompt"),
        ("lr_scheduler_type: cosine_with_min_lr", "either min_lr or min_lr_rate"),
        ("lr_scheduler_type: polynomial\nlr_scheduler_kwargs: {powr: 2}", "did you mean power?"),
        ("lr_scheduler_type: polynomial\nlr_scheduler_kwargs: {power: two}", "is not a number"),
        ("lr_scheduler_type: linear\nlr_scheduler_kwargs: {power: 2}", "it takes none"),
        ("lr_scheduler_type: warmup_stable_decay", "must hold num_decay_steps"),
        ("pissa_iter: 0", "must be -1 (exact) or at least 1"),
        ("resume_from_checkpoint: newest", "must be true, false, auto or the path of a checkpoint-N, not `newest`"),
        ("dataset_dir: ONLINE", "data is read from files"),
        (
            "save_steps: 1.5",
            "`save_steps` must be a whole number from 1 on, or a share of all optimizer steps between 0 and 1, not `1.5`",
        ),
        ("eval_steps: 0", "`eval_steps` must be a whole number from 1 on"),
        ("logging_steps: often", "between 0 and 1, not `often`"),
        ("lora_rank: 8.5", "must be a whole number"),
        ("quantization_method: hqq", "must be one of bnb"),
    ],
)
def test_contradictions_and_wrong_values_are_named(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        examined(tmp_path, text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("auto", "auto"),
        ("saves/x/checkpoint-5", "saves/x/checkpoint-5"),
        ("x/checkpoint-5/", "x/checkpoint-5/"),
    ],
)
def test_a_checkpoint_may_be_named(text: str, value: bool | str, tmp_path: Path) -> None:
    _, config = examined(tmp_path, f"resume_from_checkpoint: {text}")
    assert config.resume_from_checkpoint == value
    (tmp_path / "again.yaml").write_text(dump(config))
    assert load(tmp_path / "again.yaml").config == config


def test_explain_knows_which_templates_there_are(tmp_path: Path) -> None:
    for name, loads in (("qwen3", True), ("auto", True), ("mine.yaml", True), ("llama33", False), ("null", True)):
        (tmp_path / "x.yaml").write_text(f"stage: sft\ntemplate: {name}\n")
        found = report(examine(tmp_path / "x.yaml"))
        assert found["loads"] is loads
    (tmp_path / "x.yaml").write_text("template: llama33\n")
    assert "did you mean llama3" in str(report(examine(tmp_path / "x.yaml"))["problems"])


def test_whole_numbers_may_be_written_as_floats(tmp_path: Path) -> None:
    steps = examined(tmp_path, "save_steps: 1e3\nlora_rank: 8.0\nlogging_steps: 0.1\n")[1]
    assert repr((steps.save_steps, steps.lora_rank, steps.logging_steps)) == "(1000, 8, 0.1)"


def test_a_llamafactory_file_trains(model_dir: Path, tmp_path: Path) -> None:
    """The file as it is; only the places are those of the test."""
    from qlora_fast.train.run import train

    data = FILES.parent / "demo" / "alpaca_en.json"
    places = [f"model_name_or_path={model_dir}", f"dataset={data}", "dataset_dir=.", f"output_dir={tmp_path / 'run'}"]
    small = [f"prepared_dir={tmp_path / 'prepared'}", "max_steps=3", "max_samples=16", "template=auto"]
    results = train(load(FILES / "lora_sft.yaml", [*places, *small]).config)
    assert results["train_steps"] == 3
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()
    assert load(tmp_path / "run" / "config.yaml").config.per_device_train_batch_size == 1
