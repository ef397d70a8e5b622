"""Two processes make the run of one; when one fails, all end, and the user hears of it once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tiny
from cli_run import DATA, environment
from prepared import random_dataset
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.errors import ArtifactError, ConfigError
from qlora_fast.train import checkpoint, failing
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.joining import joined, local_share
from ranks_run import PACKINGS, SETTINGS, Ended, Stopped, free_port, launch, stop_at_7
from tiny_run import tiny_run

BOUND = 1e-6
SAME = {"loss", "grad_norm", "eval_loss", "eval_loss_hf", "eval_accuracy", "perplexity"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return random_dataset(tmp_path_factory.mktemp("ranks") / "p", 40, vocab=tiny.VOCAB, longest=40, seed=6)


@pytest.fixture(scope="module")
def two(data: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind; `from-one` was begun by one."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.raises(Stopped):
        tiny_run(data, folder / "from-one", save_every=5, on_update=stop_at_7, **SETTINGS).run()
    ended = launch(2, "train", data.path, folder)
    assert all(rank.status == 0 for rank in ended), [rank.err[-2000:] for rank in ended]
    return folder


@pytest.fixture(scope="module")
def alone(data: PreparedDataset) -> dict[str, Any]:
    runs = {packing: tiny_run(data, packing=packing, **SETTINGS) for packing in PACKINGS}
    for run in runs.values():
        run.run()
    return runs


def weights(folder: Path, name: str) -> Tensor:
    return load_file(folder / f"{name}.safetensors")["weights"]


@pytest.mark.parametrize("packing", PACKINGS)
def test_two_ranks_make_the_adapter_of_one(two: Path, alone: dict[str, Any], packing: str) -> None:
    ours = alone[packing].adapter.weights
    assert torch.equal(weights(two, f"{packing}-0"), weights(two, f"{packing}-1")), "the ranks differ"
    start = tiny_run(alone[packing].batches.dataset, packing=packing, **SETTINGS).adapter.weights
    assert float((ours - start).abs().max()) > 1e-3, "nothing was learned: the comparison would mean nothing"
    assert float((weights(two, f"{packing}-0") - ours).abs().max()) <= BOUND
    history = json.loads((two / f"{packing}-0.json").read_text())
    for one, both in zip(alone[packing].progress.log_history, history, strict=True):
        assert one.keys() == both.keys()
        for key in one.keys() & SAME:
            assert one[key] == pytest.approx(both[key], rel=1e-5), key


def test_an_evaluation_is_the_same_on_every_number_of_ranks(two: Path, alone: dict[str, Any]) -> None:
    def scores(history: list[dict[str, float]]) -> list[dict[str, float]]:
        return [{k: v for k, v in e.items() if k in SAME} for e in history if "eval_loss" in e]

    first, second = (json.loads((two / f"none-{rank}.json").read_text()) for rank in (0, 1))
    assert scores(first) == scores(second), "the ranks would disagree on which is best"
    for both, one in zip(scores(first), scores(alone["none"].progress.log_history), strict=True):
        assert both == pytest.approx(one, rel=1e-6)


def test_two_ranks_go_on_where_one_stopped(two: Path, alone: dict[str, Any]) -> None:
    assert float((weights(two, "from-one-0") - alone["exact"].adapter.weights).abs().max()) <= BOUND


def test_one_rank_goes_on_where_two_stopped(
    two: Path, data: PreparedDataset, alone: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert {p.name for p in (two / "by-two").iterdir()} == {"checkpoint-5"}, "rank 0 alone writes"
    assert {name for name in load_file(two / "by-two" / "checkpoint-5" / "random.safetensors") if "cpu" in name} == {
        "rank0.cpu",
        "rank1.cpu",
    }
    with caplog.at_level("INFO", logger="qlora_fast"):
        resumed = tiny_run(data, two / "by-two", **SETTINGS)
    assert "the run had 2 processes, now 1: dropout masks differ" in caplog.text
    assert resumed.progress.update == 5
    resumed.run()
    assert float((resumed.adapter.weights - alone["exact"].adapter.weights).abs().max()) <= BOUND


def test_two_ranks_go_on_where_two_stopped_to_the_same_bits(two: Path) -> None:
    """With dropout, which each rank draws for itself: a rank that took another's random state, or none, would differ."""
    assert (two / "cut" / "checkpoint-10").is_dir()
    for rank in (0, 1):
        cut, whole = (json.loads((two / f"{name}-{rank}.json").read_text()) for name in ("cut", "whole"))
        assert [{k: e[k] for k in e.keys() & SAME} for e in cut] == [{k: e[k] for k in e.keys() & SAME} for e in whole]
        assert torch.equal(weights(two, f"cut-{rank}"), weights(two, f"whole-{rank}"))
    assert not torch.equal(weights(two, "whole-0"), weights(two, "exact-0")), "no dropout was drawn"
    for name in checkpoint.PARTS[:4]:
        both = [(two / run / "checkpoint-10" / name).read_bytes() for run in ("cut", "whole")]
        assert both[0] == both[1], name


def test_a_machine_that_does_not_see_a_checkpoint_is_sent_it(two: Path) -> None:
    first, second = (json.loads((two / f"seen-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["name"] == "checkpoint-5"
    assert {*checkpoint.PARTS, "MANIFEST.json"} <= set(first["files"])
    assert not (two / "elsewhere").exists()
    waits = [json.loads((two / f"waits-{rank}.json").read_text()) for rank in (0, 1)]
    assert [wait.pop("there") for wait in waits] == [True, False], "a copy is removed"
    assert all(len(wait["waited_s"]) == 2 and wait["seconds"] > 0 for wait in waits)
    assert waits[0]["waited_s"] == waits[1]["waited_s"]


def test_a_signal_to_one_rank_stops_all_behind_the_same_update(two: Path) -> None:
    found = checkpoint.newest_whole(two / "signal")
    assert found is not None
    assert found.name == "checkpoint-4"


def test_another_effective_batch_is_refused_with_the_setting_that_mends_it(
    two: Path, data: PreparedDataset, tmp_path: Path
) -> None:
    run = tiny_run(data, tmp_path, save_every=5, identity={checkpoint.EFFECTIVE_BATCH: 8}, **{**SETTINGS, "updates": 5})
    run.run()
    with pytest.raises(ArtifactError, match="samples_per_update: 8 → 4") as caught:
        tiny_run(data, tmp_path, identity={checkpoint.EFFECTIVE_BATCH: 4}, **SETTINGS)
    assert "gradient_accumulation_steps so that batch × accumulation × processes is 8" in str(caught.value.hint)


def all_said(ended: list[Ended]) -> str:
    assert not any("Traceback" in rank.err for rank in ended), [rank.err[-2000:] for rank in ended]
    return "".join(rank.out + rank.err for rank in ended)


def test_a_rank_that_fails_stops_the_others_with_its_own_message() -> None:
    ended = launch(2, "fail", "raise", limit_s=60)
    assert [rank.status for rank in ended] == [1, 1]
    assert all_said(ended).count("rank 1 has read a bad row") == 1
    assert "rank 1 has read a bad row" in ended[1].err
    assert all_said(ended).count("fix it") == 1


def test_a_rank_that_is_killed_stops_the_others() -> None:
    ended = launch(2, "fail", "die", limit_s=60)
    assert [rank.status for rank in ended] == [1, -signal.SIGKILL]
    assert all_said(ended).count("ended without an error message") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("how", "victim"), [("die", 1), ("die-first", 0)])
def test_of_four_ranks_one_reports_the_killed_one(how: str, victim: int) -> None:
    """Also where it held the store, by which the others would agree who does."""
    ended = launch(4, "fail", how, limit_s=60)
    assert [rank.status for rank in ended] == [-signal.SIGKILL if r == victim else 1 for r in range(4)]
    assert all_said(ended).count(f"rank {victim} ended without an error message") == 1
    assert all_said(ended).count("ended without an error message") == 1


@pytest.mark.slow
def test_the_first_rank_failing_before_its_turn_ends_stops_the_others() -> None:
    ended = launch(2, "fail", "first", limit_s=60)
    assert [rank.status for rank in ended] == [1, 1]
    assert all_said(ended).count("rank 0 found no data") == 1


@pytest.mark.slow
def test_a_rank_that_no_longer_moves_stops_the_others() -> None:
    ended = launch(2, "fail", "hang", limit_s=60, expected=1)
    assert ended[0].status == 1
    assert all_said(ended).count("rank 1 ended without an error message") == 1


def test_a_launcher_that_names_no_port_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="0 is not a port") as caught, joined():
        pass
    assert "--standalone" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two is not a number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2 of WORLD_SIZE=2"),
        (
            {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "2"},
            "LOCAL_RANK=3 of LOCAL_WORLD_SIZE=2",
        ),
    ],
)
def test_an_environment_that_names_no_place_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], said: str
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said) as caught, joined():
        pass
    assert "torchrun" in str(caught.value.hint)


def test_alone_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as me, me.in_turn():
        assert me == Ranks()
        assert me.from_first(lambda: "x") == "x"


def test_alone_the_number_of_a_launcher_makes_no_turn() -> None:
    """LOCAL_RANK may remain in the environment of a process that a worker starts."""
    with Ranks(local_rank=1).in_turn():
        pass


@pytest.mark.parametrize(("cores", "processes", "threads"), [(8, 2, 4), (2, 2, 1), (2, 4, 1), (64, 1, 64)])
def test_threads_are_shared_out(cores: int, processes: int, threads: int) -> None:
    assert local_share(cores, processes) == threads


# --- the command line under the launchers


@pytest.fixture
def config(model_dir: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"model_name_or_path: {model_dir}\ndataset: {DATA / 'demo' / 'alpaca_en.json'}\ncutoff_len: 512\nval_size: 0.2\n"
        f"lora_rank: 4\nlearning_rate: 1e-4\nnum_train_epochs: 4\nper_device_train_batch_size: 2\n"
        f"gradient_accumulation_steps: 2\neval_strategy: steps\neval_steps: 5\nsave_steps: 5\nlogging_steps: 1\n"
        f"plot_loss: false\noutput_dir: {tmp_path / 'run'}\nprepared_dir: {tmp_path / 'prepared'}\n"
    )
    return path


TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", "2")
ACCELERATE = ("accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port")


def launched(*words: str | Path, launcher: tuple[str, ...] = TORCHRUN) -> list[str]:
    program = str(Path(sys.executable).parent / launcher[0])
    return [program, *launcher[1:], "-m", "qlora_fast.cli", "train", *map(str, words)]


def adapter(folder: Path) -> Tensor:
    tensors = load_file(folder / "adapter_model.safetensors")
    return torch.cat([tensors[name].reshape(-1) for name in sorted(tensors)])


@pytest.mark.slow
def test_the_command_line_under_torchrun_and_accelerate(config: Path, tmp_path: Path) -> None:
    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240, check=False)

    single = [sys.executable, "-m", "qlora_fast.cli", "train", str(config)]
    one = run([*single, "gradient_accumulation_steps=4", f"output_dir={tmp_path / 'one'}"])
    assert one.returncode == 0, one.stderr
    both = run(launched(config, "--json", f"output_dir={tmp_path / 'two'}"))
    assert both.returncode == 0, both.stderr
    assert json.loads(both.stdout)["output_dir"] == str(tmp_path / "two"), "one rank prints, once"
    assert len(re.findall(r"^Step 1: ", both.stderr, re.MULTILINE)) == 1
    third = run(launched(config, f"output_dir={tmp_path / 'three'}", launcher=(*ACCELERATE, free_port())))
    assert third.returncode == 0, third.stderr
    # Adam moves a weight whose gradient is all rounding by the full rate: the bound is for a usual rate.
    for folder in ("two", "three"):
        assert float((adapter(tmp_path / folder) - adapter(tmp_path / "one")).abs().max()) <= BOUND
        assert float((adapter(tmp_path / folder / "best") - adapter(tmp_path / "one" / "best")).abs().max()) <= BOUND
    shared = run(launched(config, "shard_base=world", f"output_dir={tmp_path / 'shared'}"))
    assert shared.returncode == 0, shared.stderr
    assert "the base is shared out over 2 processes" in shared.stderr
    for folder in (".", "best", "last"):
        assert torch.equal(adapter(tmp_path / "shared" / folder), adapter(tmp_path / "two" / folder))
    refused = run(launched(config, f"output_dir={tmp_path / 'two'}"))
    assert refused.returncode == 1
    assert refused.stderr.count("holds a run already") == 1


@pytest.mark.slow
def test_ctrl_c_under_torchrun_writes_a_checkpoint_and_one_process_goes_on(config: Path, tmp_path: Path) -> None:
    words = ("num_train_epochs=60", "eval_strategy=no", "save_steps=100000")
    with subprocess.Popen(launched(config, *words), env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        seen = ""
        until = time.monotonic() + 120
        while "Step 5:" not in seen and time.monotonic() < until:
            seen += process.stderr.readline()
        os.kill(process.pid, signal.SIGINT)
        seen += process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert "a checkpoint was written" in seen
    assert "torchrun --standalone --nproc-per-node 2 -m qlora_fast.cli train" in seen
    newest = checkpoint.newest_whole(tmp_path / "run")
    assert newest is not None
    update = int(newest.name.partition("-")[2])
    command = [sys.executable, "-m", "qlora_fast", "train", str(config), *words, "resume_from_checkpoint=true"]
    wrong = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert wrong.returncode == 1
    assert "processes is 8 again" in wrong.stderr
    right = subprocess.run(
        [*command, "gradient_accumulation_steps=4", "--json"],
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert right.returncode == 0, right.stderr
    assert f"update {update} of 180" in right.stderr
    assert json.loads(right.stdout)["train_steps"] == 180


def test_the_rank_that_ended_is_named_though_its_connection_is_seen_to_end_later() -> None:
    class Line:
        ended: int | None = None

    line = Line()
    later = threading.Timer(0.2, lambda: setattr(line, "ended", 3))
    later.start()
    assert failing.who_ended(line, "another") == "rank 3"  # type: ignore[arg-type]
    later.join()
