"""`init` writes a config that loads, fits the data, the model and the machine, and says why."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cli_run import DATA, cli
from qlora_fast.config import Config, load
from qlora_fast.errors import DataError
from qlora_fast.train.suggest import Machine, suggest

CPU = Machine(None, 16 << 30, False)


def rows(path: Path, count: int, words: int = 20, longest: int | None = None) -> Path:
    """A data file of ``count`` rows of about as many tokens; the last one longer."""
    made = [{"instruction": f"question {i}", "output": " ".join(["word"] * words)} for i in range(count)]
    if longest:
        made[-1]["output"] = " ".join(["word"] * longest)
    path.write_text(json.dumps(made))
    return path


def suggested(folder: Path, data: Path, model: str | Path, machine: Machine = CPU) -> tuple[Config, str]:
    text = suggest([str(data)], str(model), machine)
    (folder / "made.yaml").write_text(text)
    loaded = load(folder / "made.yaml")
    assert loaded.ignored == [], "nothing is written that has no effect"
    settings = [line for line in text.splitlines() if re.match(r"\w+:", line)]
    assert all(re.search(r"  # \w", line) for line in settings), "each choice has its reason"
    return loaded.config, text


@pytest.fixture
def qwen8b(model_dir: Path, tmp_path: Path) -> Path:
    """The tokenizer of the tests with the config.json of a large model: no weights are needed."""
    folder = tmp_path / "qwen3-8b"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((model_dir / name).read_bytes())
    shape = {
        "model_type": "qwen3", "num_hidden_layers": 36, "hidden_size": 4096, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936,
        "max_position_embeddings": 40960,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(shape))
    return folder


def test_small_data_on_a_cpu(model_dir: Path, tmp_path: Path) -> None:
    made, text = suggested(tmp_path, rows(tmp_path / "d.json", 40), model_dir)
    assert made.template == "qwen3"
    assert (made.val_size, made.eval_strategy, made.quantization_bit, made.bf16) == (0, "no", None, False)
    assert made.per_device_train_batch_size * made.gradient_accumulation_steps == 16
    assert (made.num_train_epochs, "40 samples" in text) == (5, True)


def test_more_data_is_evaluated_and_batched_larger(model_dir: Path, tmp_path: Path) -> None:
    made, _ = suggested(tmp_path, rows(tmp_path / "d.json", 1200), model_dir)
    assert (made.val_size, made.eval_strategy, made.load_best_model_at_end) == (0.1, "steps", True)
    assert made.per_device_train_batch_size * made.gradient_accumulation_steps == 32


def test_the_cutoff_follows_the_95th_percentile(model_dir: Path, tmp_path: Path) -> None:
    even, _ = suggested(tmp_path, rows(tmp_path / "even.json", 100), model_dir)
    outlier, text = suggested(tmp_path, rows(tmp_path / "odd.json", 100, longest=900), model_dir)
    assert even.cutoff_len == outlier.cutoff_len < 200
    assert "one sample in twenty is truncated at most" in text
    long, text = suggested(tmp_path, rows(tmp_path / "long.json", 10, words=3000), model_dir)
    assert (long.cutoff_len, "all the positions" in text) == (2048, True)


@pytest.mark.parametrize(
    ("gigabytes", "bf16", "bits", "reason"),
    [(80, True, None, ""), (16, True, 4, "QLoRA"), (16, False, 4, "QLoRA"), (4, True, 4, "may not suffice")],
)
def test_quantization_where_memory_asks_for_it(
    gigabytes: int, bf16: bool, bits: int | None, reason: str, qwen8b: Path, tmp_path: Path
) -> None:
    gpu = Machine("a GPU", int(gigabytes * 1e9), bf16)
    made, text = suggested(tmp_path, rows(tmp_path / "d.json", 200), qwen8b, gpu)
    assert (made.quantization_bit, made.bf16, made.fp16) == (bits, bf16, not bf16)
    assert reason in text
    assert made.max_tokens_per_row == "auto"


def test_awkward_names_are_quoted(model_dir: Path, tmp_path: Path) -> None:
    made, _ = suggested(tmp_path, rows(tmp_path / "it's # 1: data.json", 30), model_dir)
    assert made.dataset == [str(tmp_path / "it's # 1: data.json")]


def test_data_that_is_not_there_is_named(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json"):
        suggest([str(tmp_path / "nowhere.json")], str(model_dir), CPU)


def test_from_an_empty_folder_to_a_plan(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_bytes((DATA / "demo" / "alpaca_en.json").read_bytes())
    ran = cli("init", "mine.json", "--model", model_dir, cwd=tmp_path)
    assert (ran.status, ran.out) == (0, "mine.yaml\n"), ran.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.json", "mine.yaml"]
    again = cli("init", "mine.json", "--model", model_dir, cwd=tmp_path)
    assert (again.status, "already exists" in again.err) == (1, True)
    planned = cli("plan", "mine.yaml", "--json", cwd=tmp_path)
    assert planned.status == 0, planned.err
    assert planned.json["samples_per_update"] == 16
