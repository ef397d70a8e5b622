"""A sweep: every config a process, finished runs skipped, stopped ones resumed, and the table at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cli_run import arguments, cli, environment
from qlora_fast.errors import ConfigError
from qlora_fast.runs import sweep
from qlora_fast.runs.sweep import Member, members, run, state
from tiny_folder import config_file


@pytest.fixture
def configs(model_dir: Path, tmp_path: Path) -> list[Path]:
    base = config_file(tmp_path, model_dir)
    found = []
    for name, lines in {"one": "", "two": "lora_rank: 8\n"}.items():
        found.append(tmp_path / f"{name}.yaml")
        found[-1].write_text(f"extends: {base.name}\n{lines}")
    return found


def test_a_sweep_trains_compares_and_is_not_done_twice(configs: list[Path], tmp_path: Path) -> None:
    ran = cli("sweep", *configs, "num_train_epochs=1", "--output-dir", tmp_path / "s", "--json")
    assert ran.status == 0, ran.err
    assert [line["name"] for line in ran.json["runs"]] == ["one", "two"]
    assert [line["lora_rank"] for line in ran.json["runs"]] == [4, 8]
    assert ran.json["runs"][1]["changed"] == ["lora_rank 4 → 8"]
    assert ran.json["runs"][1]["difference"]["samples"] == 10
    assert (tmp_path / "s" / "losses.png").is_file()
    weights = (tmp_path / "s" / "two" / "adapter_model.safetensors").stat()
    seen: list[str] = []
    again = run(
        members(list(map(str, configs)), ["num_train_epochs=1"], tmp_path / "s"), lambda m, s, i: seen.append(s)
    )
    assert seen == ["finished", "finished"]
    assert all(outcome.status is None and outcome.done for outcome in again)
    assert (tmp_path / "s" / "two" / "adapter_model.safetensors").stat() == weights
    # A folder of other settings is not taken for this sweep's.
    with pytest.raises(ConfigError, match=r"num_train_epochs: 1\.0 → 2\.0"):
        members(list(map(str, configs)), ["num_train_epochs=2"], tmp_path / "s")


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_bits(configs: list[Path], tmp_path: Path) -> None:
    more = (
        "num_train_epochs=6",
        "save_strategy=steps",
        "save_steps=1",
        "eval_strategy=no",
        "load_best_model_at_end=false",
    )
    todo = members([str(configs[0])], more, tmp_path / "whole")
    assert [o.status for o in run(todo)] == [0]
    words = arguments("sweep", configs[0], *more, "--output-dir", tmp_path / "s")
    process = subprocess.Popen(
        words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment(), start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "s" / "one").glob("checkpoint-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130
    again = members([str(configs[0])], more, tmp_path / "s")
    assert state(again[0]) == "started"
    assert [o.status for o in run(again)] == [0]
    one, two = (tmp_path / f / "one" / "adapter_model.safetensors" for f in ("whole", "s"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_a_run_that_fails_costs_only_itself(configs: list[Path], tmp_path: Path) -> None:
    configs[0].write_text(configs[0].read_text() + "model_name_or_path: /nowhere/model\n")
    ran = cli("sweep", *configs, "num_train_epochs=1", "--output-dir", tmp_path / "s")
    assert ran.status == 1
    assert "1 of the runs did not finish: one (exit status 1)" in ran.err
    assert "two" in ran.out
    assert (tmp_path / "s" / "two" / "all_results.json").is_file()


def test_wrong_words_show_before_the_first_run(configs: list[Path], tmp_path: Path) -> None:
    configs[1].write_text("lora_rnak: 4\n")
    ran = cli("sweep", *configs, "--output-dir", tmp_path / "s")
    assert ran.status == 1
    assert "did you mean `lora_rank`" in ran.err.lower()
    assert not (tmp_path / "s").exists()
    with pytest.raises(ConfigError, match="is set by the sweep itself"):
        members([str(configs[0])], ["output_dir=x"], tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "one.yaml").write_text("lora_rank: 4\n")
    with pytest.raises(ConfigError, match="would share the folder"):
        members([str(configs[0]), str(tmp_path / "sub" / "one.yaml")], [], tmp_path)


def test_the_words_of_a_run_say_whether_it_goes_on(tmp_path: Path) -> None:
    member = Member(Path("c.yaml"), ("lora_rank=4",), tmp_path / "c")
    assert "resume_from_checkpoint=false" in member.command("new")
    assert "resume_from_checkpoint=true" in member.command("started")
    assert "overwrite_output_dir=false" in member.command("started")
    assert state(member) == "new"
    member.output.mkdir()
    (member.output / "run.json").write_text("{}")
    assert state(member) == "started"
    (member.output / "all_results.json").write_text(json.dumps({}))
    assert state(member) == "finished"
    assert sweep.Outcome(member, None).done
    assert not sweep.Outcome(member, 137).done
