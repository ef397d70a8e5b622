"""Two settings that exclude each other: an error within one file; the nearer one wins between file and command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_run import cli
from qlora_fast.config import examine, load
from qlora_fast.config.checks import EXCLUSIVE
from qlora_fast.config.keys import default
from qlora_fast.errors import ConfigError

SET = {
    "fp16": "true", "bf16": "true", "dtype": "fp32", "pissa_init": "true", "quantization_bit": "4", "use_dora": "true",
    "eval_dataset": "e.json", "val_size": "0.1", "resume_from_checkpoint": "true", "overwrite_output_dir": "true",
    "mask_history": "true", "train_on_prompt": "true", "offload_base": "true", "shard_base": "world",
    "torch_compile": "true",
}  # fmt: skip
PAIRS = [(a, b) for pair in EXCLUSIVE for a, b in ((pair.first, pair.second), (pair.second, pair.first))]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_within_one_file_it_is_an_error(first: str, second: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"{first}: {SET[first]}\n{second}: {SET[second]}\n")
    with pytest.raises(ConfigError, match="cannot be combined with"):
        load(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="cannot be combined with"):
        load(None, [f"{first}={SET[first]}", f"{second}={SET[second]}"])


@pytest.mark.parametrize(("in_file", "word"), PAIRS)
def test_the_command_line_wins_over_the_file(in_file: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"seed: 1\n{in_file}: {SET[in_file]}\n")
    loaded = load(tmp_path / "x.yaml", [f"{word}={SET[word]}"])
    assert getattr(loaded.config, in_file) == default(in_file)
    assert getattr(loaded.config, word) != default(word)
    expected = f"{tmp_path / 'x.yaml'}:2: `{in_file}` has no effect: `{word}={SET[word]}` overrides it"
    assert loaded.ignored == [expected]


@pytest.mark.parametrize(("below", "above"), PAIRS)
def test_a_file_wins_over_the_one_it_extends(below: str, above: str, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(f"{below}: {SET[below]}\n")
    (tmp_path / "x.yaml").write_text(f"extends: base.yaml\n{above}: {SET[above]}\n")
    loaded = load(tmp_path / "x.yaml")
    assert getattr(loaded.config, below) == default(below)
    assert getattr(loaded.config, above) != default(above)


def test_a_setting_that_is_switched_off_excludes_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("overwrite_output_dir: true\n")
    assert load(tmp_path / "x.yaml", ["resume_from_checkpoint=false"]).config.overwrite_output_dir
    (tmp_path / "y.yaml").write_text("bf16: true\n")
    assert load(tmp_path / "y.yaml", ["dtype=bf16"]).config.bf16
    assert load(tmp_path / "y.yaml", ["dtype=auto"]).config.bf16


@pytest.mark.parametrize("order", ["neat_packing: false\npacking: none\n", "packing: none\nneat_packing: false\n"])
def test_a_translated_key_of_the_command_line_wins_too(order: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(order)
    reading = examine(tmp_path / "x.yaml", ["neat_packing=true"])
    assert reading.config is not None
    assert reading.config.packing == "dense"
    assert {v.key: v.fate for v in reading.verdicts} == {"packing": "ignored", "neat_packing": "translated"}


def test_a_translation_from_a_file_yields_to_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("pure_bf16: true\n")
    loaded = load(tmp_path / "x.yaml", ["fp16=true"])
    assert (loaded.config.bf16, loaded.config.fp16) == (False, True)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("model_name_or_path: m\ntemplate: qwen3\ninfer_backend: huggingface\n", "qlora-fast chat RUN"),
        ("model_name_or_path: m\nexport_dir: out\nexport_size: 5\n", "qlora-fast merge RUN -o FOLDER"),
        ("model_name_or_path: m\ndo_eval: true\n", "qlora-fast evaluate RUN"),
        ("model_name_or_path: m\nstage: sft\ndo_train: true\nfinetuning_type: full\n", "trains LoRA adapters"),
    ],
)
def test_a_file_that_does_not_train_here_names_the_command(text: str, command: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    ran = cli("config", "explain", tmp_path / "x.yaml")
    assert ran.status == 1
    assert command in ran.out
    with pytest.raises(ConfigError):
        load(tmp_path / "x.yaml")
    trains = text.replace("finetuning_type: full\n", "") if "do_train" in text else f"{text}do_train: true\n"
    (tmp_path / "y.yaml").write_text(trains)
    assert examine(tmp_path / "y.yaml").problems == []
