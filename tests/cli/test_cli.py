"""Commands end to end on a tiny model: shapes that others script against, exit codes, help."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import time
from hashlib import sha256
from pathlib import Path

import pytest

from cli_run import DATA, ROOT, arguments, cli, cli_process, environment
from qlora_fast.cli import console

ALPACA = DATA / "demo" / "alpaca_en.json"


@pytest.fixture
def config(model_dir: Path, tmp_path: Path) -> Path:
    return written(model_dir, tmp_path)


def written(model_dir: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"model_name_or_path: {model_dir}\ndataset: {ALPACA}\ncutoff_len: 512\nval_size: 0.2\nlora_rank: 4\n"
        f"lora_dropout: 0.1\nlearning_rate: 5e-3\nnum_train_epochs: 4\nper_device_train_batch_size: 2\n"
        f"gradient_accumulation_steps: 2\nwarmup_ratio: 0.1\neval_strategy: steps\neval_steps: 5\nsave_steps: 5\n"
        f"logging_steps: 1\noutput_dir: {tmp_path / 'run'}\nprepared_dir: {tmp_path / 'prepared'}\n"
    )
    return path


def test_preps_json_is_what_scripts_rely_on(model_dir: Path, tmp_path: Path) -> None:
    ran = cli("prep", ALPACA, "--json", f"model_name_or_path={model_dir}", cwd=tmp_path)
    assert ran.status == 0, ran.err
    report = ran.json
    names = [
        "path",
        "rows_read",
        "rows_kept",
        "rows_dropped",
        "tokens",
        "supervised_tokens",
        "tokens_cut",
        "engine",
        "seconds",
        "fingerprint",
    ]
    assert set(names) <= set(report)
    assert report["rows_read"] == report["rows_kept"] + sum(report["rows_dropped"].values())
    assert report["template"] == "qwen3"
    again = cli("prep", ALPACA, "--json", f"model_name_or_path={model_dir}", cwd=tmp_path).json
    assert again["reused"]
    assert again["fingerprint"] == report["fingerprint"]
    assert again["path"] == report["path"]


def test_prep_tells_a_person_what_became_of_every_row(model_dir: Path, tmp_path: Path) -> None:
    rows = [{"instruction": "q", "output": "a"}, {"instruction": "q", "output": ""}, {"instruction": "q", "output": 3}]
    (tmp_path / "d.json").write_text(json.dumps(rows, indent=1))
    ran = cli("prep", "d.json", f"model_name_or_path={model_dir}", cwd=tmp_path)
    assert ran.status == 0, ran.err
    assert "3 read = 1 kept + 2 dropped" in ran.out
    assert "1 empty_answer  first: d.json:6 (row 1)" in ran.out
    assert "1 not_text:output  first: d.json:10 (row 2)" in ran.out


@pytest.mark.parametrize(
    ("rows", "settings", "updates", "kept"),
    [
        (5986, ["world_size=8", "gradient_accumulation_steps=4"], 141, 5986),
        (5986, ["world_size=8", "gradient_accumulation_steps=4", "val_size=0.1"], 129, 5387),
        (5986, ["world_size=8", "gradient_accumulation_steps=4", "val_size=0.1", "num_train_epochs=5"], 215, 5387),
        (1496, ["world_size=2", "gradient_accumulation_steps=4"], 141, 1496),
        (5986, ["world_size=2", "gradient_accumulation_steps=4"], 564, 5986),
    ],
)
def test_the_guides_step_counts(rows: int, settings: list[str], updates: int, kept: int) -> None:
    report = cli("plan", ROOT / "configs/guide/baseline.yaml", "--rows", str(rows), "--json", *settings).json
    assert (report["updates"], report["rows"]) == (updates, kept)
    assert report["samples_per_update"] == 4 * 4 * int(settings[0][-1])
    if updates == 141:
        assert report["warmup_updates"] == 15
        assert [f"{report['lr'][k]:.3e}" for k in ("10", "20", "30")] == ["3.000e-05", "4.988e-05", "4.849e-05"]


def test_plan_shows_the_rate_of_every_log_line_also_where_they_come_by_shares() -> None:
    words = ("--rows", "1496", "--json", "world_size=2", "gradient_accumulation_steps=4", "logging_steps=0.5")
    report = cli("plan", ROOT / "configs/guide/baseline.yaml", *words).json
    assert list(report["lr"]) == ["1", "16", "71", "141"], "the first, the peak, ceil(0.5 · 141), the last"


def test_plan_says_what_max_steps_does() -> None:
    plan = cli("plan", ROOT / "configs/guide/baseline.yaml", "--rows", "1496", "max_steps=5")
    assert "5 (max_steps; 47 would be one epoch)" in plan.out
    assert (
        "× 1 epoch = 47"
        in cli("plan", ROOT / "configs/guide/baseline.yaml", "--rows", "1496", "num_train_epochs=1").out
    )


def test_plan_from_the_data(config: Path) -> None:
    report = cli("plan", config, "--json").json
    assert report["updates"] == report["updates_per_epoch"] * 4
    fills = {f["packing"]: f for f in report["padding"]}
    assert fills["exact"]["real_share"] == 1.0 > fills["none"]["real_share"]
    assert fills["exact"]["updates"] == fills["none"]["updates"]


def test_prep_says_that_plan_counts_without_the_held_out_rows(config: Path) -> None:
    assert "leaves out what val_size holds out" in cli("prep", "--config", config).err
    assert "leaves out" not in cli("prep", "--config", config, "val_size=0", "eval_strategy=no").err


def test_inspect_shows_tokens_and_rows(config: Path) -> None:
    sample = cli("inspect", "--config", config, "--json", "cutoff_len=2048").json[0]
    assert len(sample["input_ids"]) == len(sample["labels"]) == len(sample["tokens"])
    learned = [t for t, label in zip(sample["tokens"], sample["labels"], strict=True) if label != -100]
    assert learned[-2] == "<|im_end|>"
    assert "supervised" in cli("inspect", "--config", config, "--sample", "1").out
    assert "row 0 (rank 0)" in cli("inspect", "--config", config, "--update", "1").out


def test_inspect_shows_the_updates_of_the_run(config: Path) -> None:
    """The rows that are held out are in none of them, and the packed rows are as long as `plan` says."""
    plan = cli("plan", config, "--json", "gradient_accumulation_steps=8").json
    words = ("inspect", "--config", config, "gradient_accumulation_steps=8", "--json", "--update")
    rows = [row for n in range(plan["updates_per_epoch"]) for row in cli(*words, str(n + 1)).json["rows"]]
    assert len(rows) == next(way["rows"] for way in plan["padding"] if way["packing"] == "exact")
    samples = [sample for row in rows for sample in row]
    assert plan["eval_rows"] > 0
    assert len(samples) == len(set(samples)) == plan["rows"]


def test_a_run_leaves_the_guides_folder_and_peft_loads_it(config: Path, model_dir: Path, tmp_path: Path) -> None:
    ran = cli("train", config, "--json")
    assert ran.status == 0, ran.err
    run = tmp_path / "run"
    names = {p.name for p in run.iterdir()}
    expected = [
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "trainer_state.json",
        "trainer_log.jsonl",
        "train_results.json",
        "eval_results.json",
        "all_results.json",
        "training_loss.png",
        "training_eval_loss.png",
        "config.yaml",
        "run.json",
        "README.md",
        "best",
        "last",
        "checkpoint-5",
    ]
    assert set(expected) <= names
    results = ran.json
    log = [json.loads(line) for line in (run / "trainer_log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert results["train_steps"] == len(losses)
    assert losses[-1] < losses[0]
    assert "Step 1: " in ran.err

    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_dir)
    ids = torch.arange(20)[None]
    before = base(ids).logits
    loaded = PeftModel.from_pretrained(base, str(run)).eval()
    weights = load_file(run / "adapter_model.safetensors")
    scale = 8 / 4
    name, module = next((n, m) for n, m in loaded.named_modules() if n.endswith("layers.0.mlp.up_proj"))
    a, b = weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"]
    x = torch.randn(3, a.shape[1])
    torch.testing.assert_close(module(x), module.base_layer(x) + scale * (x @ a.T @ b.T))
    assert (loaded(ids).logits - before).abs().max() > 1e-3

    said = cli("chat", run, "--prompt", "Hello", "--max-new-tokens", "5")
    assert said.status == 0, said.err
    refused = cli("train", config)
    assert refused.status == 1
    assert "holds a run already" in refused.err
    assert "resume_from_checkpoint=true" in refused.err


def finished(config: Path, output: Path, *settings: str) -> str:
    ran = cli("train", config, f"output_dir={output}", *settings)
    assert ran.status == 0, ran.err
    return sha256((output / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The adapter of the run that nothing stops."""
    folder = tmp_path_factory.mktemp("whole")
    return finished(written(model_dir, folder), folder / "run")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_stopped_run_resumes_to_the_same_bits(
    config: Path, tmp_path: Path, whole: str, number: signal.Signals
) -> None:
    output = tmp_path / "stopped"
    words = arguments("train", config, f"output_dir={output}")
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment())
    log = output / "trainer_log.jsonl"
    deadline = time.monotonic() + 120
    while not log.is_file() or log.read_text().count("grad_norm") < 7:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, err = process.communicate()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "stopping: a checkpoint is written after this update" in err, "an update may take a minute"
        assert "resume with: qlora-fast train" in err
    assert not (output / "adapter_model.safetensors").exists()
    assert finished(config, output, "resume_from_checkpoint=true") == whole
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if "grad_norm" in line]
    assert steps == list(range(1, len(steps) + 1))


def test_help_is_instant_and_teaches() -> None:
    seconds = []
    for _ in range(5):
        # Processor time of the child: a busy machine must not decide this.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ran = cli_process("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.15, seconds
    for command in ("prep", "plan", "inspect", "train", "chat"):
        assert command in ran.out
        assert "qlora-fast" in cli(command, "--help").out


def test_wrong_words_are_exit_two() -> None:
    for words in (["prpe"], ["train"], ["plan", "x.yaml", "--rows", "0"], ["prep"]):
        ran = cli(*words)
        assert ran.status == 2, (words, ran)
    assert "Did you mean `prep`?" in cli("prpe").err


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EROFS, "prepared_dir="), (errno.EACCES, "permissions"), (errno.ENOSPC, "another disk")]
)
def test_what_the_system_refuses_is_named_with_its_place_and_a_way_out(
    number: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    console.fail(OSError(number, os.strerror(number), "prepared"))
    said = capsys.readouterr().err
    assert f"`prepared`: {os.strerror(number)}" in said
    assert "Errno" not in said
    assert words in said
