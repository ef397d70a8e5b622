"""What `config explain` prints of a key is what becomes of it: for every key that is translated or refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli_run import cli
from qlora_fast.cli import COMMANDS
from qlora_fast.config import KEYS, Config, load
from qlora_fast.config.foreign import _VALUES, RULES, TRANSLATED, foreign_key, foreign_value
from qlora_fast.errors import ConfigError

TRANSLATIONS = {
    "disable_gradient_checkpointing: true": "gradient_checkpointing: false",
    "disable_gradient_checkpointing: false": "gradient_checkpointing: true",
    "evaluation_strategy: epoch": "eval_strategy: epoch",
    "pure_bf16: true": "bf16: true",
    "neat_packing: true": "packing: dense",
    "packing: true": "packing: dense",
    "packing: false": "packing: exact",
    "warmup_steps: 0.03": "warmup_ratio: 0.03",
    "metric_for_best_model: loss": "metric_for_best_model: eval_loss",
    "metric_for_best_model: accuracy": "metric_for_best_model: eval_accuracy",
    "quantization_method: bitsandbytes": "quantization_method: bnb",
}
"""What LLaMA-Factory's files say, and what it is here; written down by hand, so that the table is held to it."""
BESIDE = "val_size: 0.1\ncompute_accuracy: true\n"
"""What some of them need."""
REFUSED = {name: "another" for name, rule in RULES.items() if rule.refused} | {
    "dataset_dir": "ONLINE",
    "train_sampling_strategy": "sequential",
}
ONLY_NAMED = {"greater_is_better"}
"""Has a translation of its own for its reason's sake, and is ignored."""


def explained(folder: Path, text: str) -> tuple[int, str]:
    (folder / "x.yaml").write_text(text)
    ran = cli("config", "explain", folder / "x.yaml")
    return ran.status, ran.out


@pytest.mark.parametrize("said", TRANSLATIONS)
def test_a_translated_key_is_shown_with_what_it_becomes_and_becomes_it(said: str, tmp_path: Path) -> None:
    status, output = explained(tmp_path, f"{said}\n{BESIDE}")
    assert status == 0, output
    (line,) = re.findall(r"^translated .*", output, re.MULTILINE)
    words, reason = re.split(r"\s{2,}line 1\s{2,}", line.removeprefix("translated").strip())
    assert words == f"{said} → {TRANSLATIONS[said]}"
    assert len(reason) > 8
    theirs = load(tmp_path / "x.yaml").config
    (tmp_path / "ours.yaml").write_text(f"{TRANSLATIONS[said]}\n{BESIDE}")
    assert theirs == load(tmp_path / "ours.yaml").config


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_key_is_shown_with_its_reason_and_refused(name: str, tmp_path: Path) -> None:
    said = f"{name}: {REFUSED[name]}"
    status, output = explained(tmp_path, f"{said}\n")
    assert status == 1
    (line,) = re.findall(r"^refused .*", output, re.MULTILINE)
    words, reason = re.split(r"\s{2,}line 1\s{2,}", line.removeprefix("refused").strip())
    assert words == said
    assert len(reason) > 8
    problem = f"`{said}` is not supported"
    assert problem in output.partition("problems:")[2]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "x.yaml")
    assert problem in str(caught.value)
    assert reason in str(caught.value)
    # What is said to be the value that is taken is taken, and asks for nothing.
    for harmless in RULES[name].harmless if name in RULES else (".",):
        status, output = explained(tmp_path, f"{name}: '{harmless}'\n")
        assert status == 0, output
        assert not re.findall(r"^refused ", output, re.MULTILINE)
        assert load(tmp_path / "x.yaml").config == Config()


@pytest.mark.parametrize("reason", sorted({rule.reason for rule in RULES.values()}))
def test_a_reason_names_only_settings_and_commands_that_there_are(reason: str) -> None:
    names = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", reason)) - {"qlora_fast"}
    assert names <= set(KEYS)
    assert set(re.findall(r"qlora-fast ([a-z]+)\b", reason)) <= set(COMMANDS)


def test_every_key_that_is_translated_or_refused_is_tried_here() -> None:
    tried = {said.partition(":")[0] for said in TRANSLATIONS} | set(REFUSED)
    assert set(TRANSLATED) - ONLY_NAMED <= tried
    assert all(foreign_key(name, "true").fate == "ignored" for name in ONLY_NAMED)  # type: ignore[union-attr]
    values = {value for said in TRANSLATIONS for value in (said.partition(": ")[2],)} | {
        "ONLINE",
        "REMOTE:x",
        "-1",
        "0",
    }
    for name in _VALUES:
        fates = {found.fate for value in values if (found := foreign_value(name, value))}
        assert fates <= {"used"} or name in tried, name
