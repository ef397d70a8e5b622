"""The comparison with other programs: what it reads, what it refuses to call a speed, and a rehearsal of what runs here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benches.gpu import rivals
from benches.gpu.rival_runs import RUNS, Task, axolotl_config, llamafactory_config
from benches.gpu.rivals import OURS, Curve, Outcome, table

from paths import ROOT


def curve(folder: Path, seconds: float, loss: float, updates: int = 5) -> Curve:
    path = folder / "curve.jsonl"
    lines = [json.dumps({"end": 9.0 + seconds * i}) for i in range(updates)]
    lines += [json.dumps({"loss": loss, "grad_norm": 0.5})] * updates
    path.write_text("chatter\n" + "\n".join(lines) + '\n{"end": 1', encoding="utf-8")
    return Curve.read(path)


def test_a_curve_is_read_with_its_warm_up_left_out(tmp_path: Path) -> None:
    found = curve(tmp_path, 2.0, 1.5)
    assert found.ends == [9, 11, 13, 15, 17]
    assert found.speed(1000, 1) == pytest.approx(4 * 1000 / 8)
    assert found.speed(1000, 3) == pytest.approx(2 * 1000 / 4)
    assert found.speed(1000, 5) is None
    assert Curve.read(tmp_path / "nothing") == Curve()


def test_who_learns_something_else_has_no_speed_and_what_is_missing_is_named(tmp_path: Path) -> None:
    outcomes = [
        Outcome(OURS, curve(tmp_path, 1.0, 1.5)),
        Outcome("half as fast", curve(tmp_path, 2.0, 1.51)),
        Outcome("learns nothing", curve(tmp_path, 0.1, 3.0)),
        Outcome("not a number", curve(tmp_path, 0.1, float("nan"))),
        Outcome("missing", None, "missing is not installed"),
        Outcome("stopped", curve(tmp_path, 1.0, 1.5, updates=1)),
    ]
    lines = table(outcomes, 1000, 1).splitlines()[2:]
    assert lines[0] == f"| {OURS} | 1,000 | 1.00 | 1.5000 | 0.5000 |"
    assert lines[1] == "| half as fast | 500 | 0.50 | 1.5100 | 0.5000 |"
    assert lines[2].startswith("| learns nothing | void | loss off by 100% |")
    assert lines[3].startswith("| not a number | void |")
    assert lines[4] == "| missing | not measured: missing is not installed | | | |"
    assert "only 1 updates" in lines[5]
    alone = table(outcomes[1:3], 1000, 1).splitlines()[2:]
    assert alone[0] == "| half as fast | 500 | not compared | 1.5100 | 0.5000 |"
    assert alone[1].startswith("| learns nothing | 10,000 | not compared |")


def test_all_rivals_are_given_the_same_task(tmp_path: Path) -> None:
    task = Task("m", "d.json", str(tmp_path), "c", 5, 32, 4, 1024, 16, 1e-4, "qwen3", bf16=True)
    task.write(tmp_path / "task.json")
    assert Task.read(str(tmp_path / "task.json")) == task
    theirs, others = llamafactory_config(task), axolotl_config(task)
    assert theirs["per_device_train_batch_size"] * theirs["gradient_accumulation_steps"] == 32
    assert others["micro_batch_size"] * others["gradient_accumulation_steps"] == 32
    assert (theirs["lora_rank"], theirs["lora_alpha"]) == (others["lora_r"], others["lora_alpha"]) == (16, 32)
    assert theirs["learning_rate"] == others["learning_rate"] == 1e-4


def test_a_run_that_fails_or_is_not_there_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task("no-model", "d.json", str(tmp_path), "", 5, 4, 2, 64, 4, 1e-4, "qwen3", bf16=False)
    monkeypatch.setitem(RUNS, "Missing", ("no_such_package", lambda task: None))
    assert rivals.measured("Missing", task, 5).why == "no_such_package is not installed"
    monkeypatch.setitem(RUNS, "Broken", ("json", lambda task: None))
    assert rivals.measured("Broken", task, 60).why.startswith("exit status 1: KeyError")


@pytest.mark.slow
def test_ours_and_the_stock_trainer_rehearsed_on_a_cpu(model_dir: Path, tmp_path: Path) -> None:
    rows = [{"instruction": f"say {i}", "output": "word " * (3 + i % 9)} for i in range(24)]
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows))
    words = [
        "--model",
        model_dir,
        "--data",
        data,
        "--updates",
        "3",
        "--warm-up",
        "1",
        "--samples",
        "8",
        "--fp32",
        "--cutoff",
        "128",
    ]
    command = [sys.executable, "-m", "benches.gpu.rivals", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'python'}:{ROOT}", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ours, stock, *others = done.stdout.splitlines()[2:]
    assert ours.startswith("| qlora-fast | ")
    assert "not measured" not in ours
    assert "void" not in stock
    assert "not measured" not in stock
    for name in ("Unsloth", "LLaMA-Factory", "Axolotl"):
        assert any(line.startswith(f"| {name} | ") for line in others)
