"""How a run ends, and what it leaves: early stopping, best/ and last/, and one line that says why."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from played_run import Crash, Start, adapter, player
from qlora_fast.errors import Interrupted, TrainingError


@pytest.fixture
def start(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    return player(model_dir, tmp_path, monkeypatch)


def ended(folder: Path) -> str:
    text: str = json.loads((folder / "run.json").read_text())["ended"]
    return text


def steps(folder: Path) -> list[int]:
    return sorted(int(p.name.partition("-")[2]) for p in folder.glob("checkpoint-*"))


def test_early_stopping_counts_evaluations_and_says_so(start: Start, tmp_path: Path) -> None:
    results = start(early_stopping_steps=2, load_best_model_at_end=True, save_total_limit=1)
    folder = tmp_path / "run"
    line = "early stopping: 2 evaluations without a better eval_loss than 0.5000 at update 4; 8 of 12 updates made"
    assert results["ended"] == ended(folder) == line
    assert json.loads((folder / "all_results.json").read_text())["ended"] == line
    assert results["train_steps"] == 8
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert [e["step"] for e in history if "loss" in e] == [5, 8], "the updates since the last line are logged too"
    assert steps(folder) == [4, 8], "the limit is 1; the best and the newest stay"
    assert adapter(folder) == adapter(folder / "best") == adapter(folder / "checkpoint-4")
    assert adapter(folder / "last") == adapter(folder / "checkpoint-8") != adapter(folder / "best")


@pytest.mark.parametrize("crash_at", [5, 7])
def test_a_resumed_run_stops_at_the_same_place(start: Start, tmp_path: Path, crash_at: int) -> None:
    def crash(update: int) -> None:
        if update == crash_at:
            raise Crash

    whole = start(early_stopping_steps=2, output_dir=str(tmp_path / "whole"))
    with pytest.raises(Crash):
        start(early_stopping_steps=2, at=crash)
    assert ended(tmp_path / "run").startswith(f"error after update {crash_at}")
    resumed = start(early_stopping_steps=2, resume_from_checkpoint=True)
    assert resumed["train_steps"] == whole["train_steps"] == 8
    assert resumed["ended"] == whole["ended"]
    for place in ("best", "last", "."):
        assert adapter(tmp_path / "run" / place) == adapter(tmp_path / "whole" / place)


def test_a_run_that_stopped_early_goes_on_with_more_patience(start: Start) -> None:
    assert start(early_stopping_steps=2)["train_steps"] == 8
    again = start(early_stopping_steps=2, resume_from_checkpoint=True)
    assert again["train_steps"] == 8, "nothing has changed: it is over"
    more = start(early_stopping_steps=3, resume_from_checkpoint=True)
    assert more["train_steps"] == 12
    assert more["ended"] == "max_steps: all 12 updates made"
    assert more["best_step"] == 12


def test_accuracy_is_better_when_it_is_higher(start: Start) -> None:
    results = start(early_stopping_steps=2, metric_for_best_model="eval_accuracy", compute_accuracy=True)
    assert results["ended"].startswith("early stopping: 2 evaluations without a better eval_accuracy than 0.5000")


def test_last_is_renewed_at_every_save_and_best_without_any(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    seen: dict[int, bool] = {}

    def look(update: int) -> None:
        if update in (5, 9):
            seen[update] = adapter(folder / "last") == adapter(folder / f"checkpoint-{update - 1}")

    start(at=look)
    assert seen == {5: True, 9: True}
    none = start(save_strategy="no", output_dir=str(tmp_path / "none"))
    assert steps(tmp_path / "none") == []
    assert adapter(tmp_path / "none" / "best") == adapter(tmp_path / "none" / "last") == adapter(folder / "best")
    assert none["best_step"] == 12


def test_a_signal_and_an_error_are_noted_in_run_json(start: Start, tmp_path: Path) -> None:
    def interrupt(update: int) -> None:
        if update == 3:
            assert ended(tmp_path / "run") == "still running, or killed"
            os.kill(os.getpid(), signal.SIGINT)

    def fail(update: int) -> None:
        if update == 6:
            raise TrainingError("the model is tired")

    with pytest.raises(Interrupted):
        start(at=interrupt)
    assert ended(tmp_path / "run") == "signal: stopped after update 4; resume_from_checkpoint=true resumes"
    with pytest.raises(TrainingError):
        start(at=fail, resume_from_checkpoint=True)
    assert ended(tmp_path / "run") == "error after update 6: the model is tired"
    done = start(resume_from_checkpoint=True, max_steps=12)
    assert ended(tmp_path / "run") == done["ended"] == "max_steps: all 12 updates made"
