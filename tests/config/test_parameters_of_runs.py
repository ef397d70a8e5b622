"""The guide's parameters of data, evaluation and output: each has its effect, from the config's key to the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cli_run import DATA
from parameter_run import Make, maker, same
from paths import ROOT
from qlora_fast.config import Config, load
from qlora_fast.config.keys import affecting
from qlora_fast.errors import ArtifactError, DataError
from qlora_fast.train.run import train
from tiny_folder import config_file


@pytest.fixture
def run(model_dir: Path, tmp_path: Path) -> Make:
    return maker(model_dir, tmp_path)


# --- the data


def test_max_samples_and_val_size(run: Make) -> None:
    made = run(max_samples=20, val_size=0.25, eval_strategy="epoch")
    assert made.results["train_samples"] == 15
    assert len((made.folder / "eval_samples.jsonl").read_text().splitlines()) == 5
    assert run(max_samples=20, val_size=3).results["train_samples"] == 17


def test_cutoff_len(run: Make) -> None:
    for cutoff in (24, 48):
        assert run(cutoff_len=cutoff).samples.lengths.max() == cutoff


def test_train_on_prompt_and_mask_history(run: Make, tmp_path: Path) -> None:
    talk = [
        {"role": "user", "content": "Hello there"},
        {"role": "assistant", "content": "Hi, how are you?"},
        {"role": "user", "content": "Well"},
        {"role": "assistant", "content": "Good."},
    ]
    (tmp_path / "talk.json").write_text(json.dumps([{"messages": talk}] * 4))
    data = {"dataset": tmp_path / "talk.json", "val_size": 0, "cutoff_len": 128}
    plain, all_of_it, last = (
        run(**data, **more) for more in ({}, {"train_on_prompt": "true"}, {"mask_history": "true"})
    )
    counts = [int(r.samples.supervised[0]) for r in (last, plain, all_of_it)]
    assert counts == sorted(set(counts)), "the last answer, all answers, everything"
    assert len({tuple(r.column("loss")) for r in (plain, all_of_it, last)}) == 3


def test_a_message_may_be_left_unlearned(run: Make, tmp_path: Path) -> None:
    def supervised(first: bool) -> int:
        talk = [
            {"role": "user", "content": "Hello there"},
            {"role": "assistant", "content": "Hi, how are you?", "loss": first},
            {"role": "user", "content": "Well"},
            {"role": "assistant", "content": "Good."},
        ]
        file = tmp_path / f"{first}.json"
        file.write_text(json.dumps([{"messages": talk}] * 4))
        return int(run(dataset=file, val_size=0, cutoff_len=128).samples.supervised[0])

    assert 0 < supervised(False) < supervised(True)


# --- evaluation


def test_eval_strategy_steps_and_batch(run: Make) -> None:
    def at(**settings: Any) -> list[float]:
        return [entry["step"] for entry in run(**settings).log if "eval_loss" in entry]

    assert at(eval_strategy="no") == []
    assert at(eval_strategy="steps", eval_steps=3) == [3, 6, 8]
    assert at(eval_strategy="epoch") == [4, 8]
    one, many = (run(eval_strategy="epoch", per_device_eval_batch_size=size).results for size in (1, 8))
    assert one["eval_loss"] == pytest.approx(many["eval_loss"], rel=1e-6)
    assert one["eval_loss_hf"] != pytest.approx(many["eval_loss_hf"], rel=1e-6), "as transformers' depends on it"
    assert many["perplexity"] == pytest.approx(np.exp(many["eval_loss"]))


def test_several_eval_datasets_each_have_their_loss(run: Make, tmp_path: Path) -> None:
    rows = json.loads((DATA / "demo" / "alpaca_en.json").read_text())
    for name, part in (("short", rows[:3]), ("long", rows[3:9])):
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    both = f"{tmp_path}/short.json,{tmp_path}/long.json"
    made = run(eval_dataset=both, val_size=0, eval_strategy="epoch", compute_accuracy="true")
    results = made.results
    tokens = [json.loads(line) for line in (made.folder / "eval_samples.jsonl").read_text().splitlines()]
    weights = [sum(t["tokens"] for t in tokens if t["file"].endswith(name)) for name in ("short.json", "long.json")]
    mean = np.average([results["eval_short_loss"], results["eval_long_loss"]], weights=weights)
    assert results["eval_loss"] == pytest.approx(float(mean), rel=1e-6)
    assert results["eval_short_loss"] != results["eval_long_loss"]
    assert {"eval_short_accuracy", "eval_long_accuracy"} <= results.keys()
    one = run(eval_dataset=f"{tmp_path}/short.json", val_size=0, eval_strategy="epoch").results
    assert "eval_short_loss" not in one, "one set is what eval_loss says"


def test_compute_accuracy(run: Make) -> None:
    assert "eval_accuracy" not in run(eval_strategy="epoch").results
    learned = {"eval_dataset": DATA / "demo" / "alpaca_en.json", "val_size": 0, "max_samples": 4, "max_steps": 60}
    results = run(**learned, eval_strategy="epoch", compute_accuracy="true", learning_rate=2e-2).results
    assert 0.2 < results["eval_accuracy"] <= 1
    assert results["eval_loss"] < 4


@pytest.mark.parametrize("metric", ["eval_loss", "eval_accuracy"])
def test_load_best_model_at_end(run: Make, metric: str) -> None:
    # At this rate it only gets worse.
    bad = {"learning_rate": 1.0, "eval_strategy": "steps", "eval_steps": 1, "compute_accuracy": "true", "max_steps": 6}
    best, last = (run(**bad, load_best_model_at_end=on, metric_for_best_model=metric) for on in ("true", "false"))
    at_best = best.results["best_step"]
    evals = {entry["step"]: entry[metric] for entry in best.log if metric in entry}
    assert evals[at_best] == (min if metric == "eval_loss" else max)(evals.values())
    assert best.results[metric] == evals[at_best]
    for made, folder in ((best, "best"), (last, "last")):
        kept = load_file(made.folder / folder / "adapter_model.safetensors")
        assert all(torch.equal(value, kept[name]) for name, value in made.weights.items())
    if at_best < 6:
        assert not same(best, last)


def test_early_stopping_counts_evaluations(run: Make) -> None:
    # At this rate it only gets worse.
    bad = {"learning_rate": 1.0, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 30, "seed": 3}
    stopped = run(**bad, early_stopping_steps=2).results
    assert stopped["train_steps"] == stopped["best_step"] + 4
    assert stopped["train_steps"] < 30
    assert run(**bad).results["train_steps"] == 30


# --- output


def test_overwrite_output_dir(run: Make, model_dir: Path, tmp_path: Path) -> None:
    first = run()
    path = config_file(tmp_path, model_dir, output_dir=first.folder, max_samples=24, plot_loss="false")
    with pytest.raises(ArtifactError, match="holds a run already"):
        train(load(path).config)
    train(load(path, ["overwrite_output_dir=true"]).config)
    aside = [p for p in first.folder.parent.iterdir() if ".old-" in p.name]
    assert [(p / "adapter_model.safetensors").is_file() for p in aside] == [True], "moved aside, not deleted"


def test_a_run_that_cannot_begin_leaves_the_earlier_one_in_its_place(
    run: Make, model_dir: Path, tmp_path: Path
) -> None:
    first = run()
    path = config_file(tmp_path, model_dir, output_dir=first.folder, max_samples=24)
    with pytest.raises(DataError, match="no data file"):
        train(load(path, ["overwrite_output_dir=true", "dataset=mispelt.json"]).config)
    assert (first.folder / "adapter_model.safetensors").is_file()
    with pytest.raises(DataError, match="no data file"):
        train(load(path, [f"output_dir={tmp_path / 'new'}", "dataset=mispelt.json"]).config)
    assert not (tmp_path / "new").exists()


def test_logging_steps(run: Make) -> None:
    assert [e["step"] for e in run(logging_steps=3).log] == [3, 6, 8]
    assert [e["step"] for e in run(logging_steps=0.3).log] == [3, 6, 8], "ceil(0.3 · 8 updates)"
    assert {"loss", "learning_rate", "grad_norm", "epoch", "step"} <= run().log[0].keys()


def test_eval_steps(run: Make) -> None:
    for steps, at in ((3, [3, 6, 8]), (0.5, [4, 8])):
        made = run(eval_strategy="steps", eval_steps=steps)
        assert [e["step"] for e in made.log if "eval_loss" in e] == at


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"save_strategy": "no"}, []),
        ({"save_strategy": "steps", "save_steps": 3}, [3, 6, 8]),
        ({"save_strategy": "steps", "save_steps": 0.5}, [4, 8]),
        ({"save_strategy": "epoch"}, [4, 8]),
        ({"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}, [6, 8]),
    ],
)
def test_save_strategy_steps_and_limit(run: Make, settings: dict[str, Any], left: list[int]) -> None:
    found = run(**settings).folder.glob("checkpoint-*")
    assert sorted(int(p.name.split("-")[1]) for p in found) == left


def test_save_only_model_leaves_an_adapter_and_no_way_to_go_on(run: Make, model_dir: Path, tmp_path: Path) -> None:
    made = run(save_strategy="epoch", save_only_model="true")
    files = {p.name for p in (made.folder / "checkpoint-8").iterdir()}
    assert "adapter_model.safetensors" in files
    assert not files & {"optimizer.safetensors", "random.safetensors", "progress.json"}
    path = made.folder.parent / "tiny.yaml"
    with pytest.raises(ArtifactError, match="holds the adapter alone") as caught:
        train(load(path, ["resume_from_checkpoint=true"]).config)
    assert "save_only_model: false" in str(caught.value.hint)


def test_plot_loss(run: Make) -> None:
    names = {"training_loss.png", "training_eval_loss.png"}
    for on, evals, expected in (
        ("true", "epoch", names),
        ("true", "no", {"training_loss.png"}),
        ("false", "epoch", set()),
    ):
        made = run(plot_loss=on, eval_strategy=evals)
        assert {p.name for p in made.folder.glob("*.png")} == expected


def test_the_output_folder_is_the_guides_file_for_file(run: Make) -> None:
    folder = run(save_strategy="epoch", plot_loss="true", eval_strategy="epoch").folder
    guide = {
        "adapter_model.safetensors", "adapter_config.json", "checkpoint-4", "checkpoint-8", "trainer_state.json",
        "training_loss.png", "training_eval_loss.png", "train_results.json", "tokenizer.json", "tokenizer_config.json",
        "all_results.json",
    }  # fmt: skip
    own = {
        "best", "last", "config.yaml", "run.json", "README.md", "trainer_log.jsonl", "eval_results.json",
        "eval_samples.jsonl", "qlora_fast.json", "MANIFEST.json",
    }  # fmt: skip
    assert {p.name for p in folder.iterdir()} == guide | own
    checkpoint = {p.name for p in (folder / "checkpoint-4").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "trainer_state.json"} <= checkpoint
    state, train_results, results = (
        json.loads((folder / name).read_text())
        for name in ("trainer_state.json", "train_results.json", "all_results.json")
    )
    assert state["global_step"] == 8
    assert [e["step"] for e in state["log_history"] if "loss" in e] == list(range(1, 9))
    assert set(train_results) <= set(results)
    assert {"train_loss", "train_runtime", "train_steps_per_second", "epoch", "memory"} <= set(train_results)
    assert "eval_loss" in results
    assert "eval_loss" not in train_results


def test_a_config_has_no_key_that_nobody_reads() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "python" / "qlora_fast").rglob("*.py")
        if "config" not in path.parts
    )
    unread = [name for name in Config.__dataclass_fields__ if f".{name}" not in source and f'"{name}"' not in source]
    # Read through a property of Config, as one of the settings of the data (`affecting`), or with one value only.
    indirect = {"lora_alpha", "max_tokens_per_row", "val_size", "report_to", "quantization_method"}
    indirect |= {*affecting("data", "preparation")}
    assert set(unread) <= indirect, unread
