"""``best/`` is the adapter of the best evaluation, or the run says that it is gone: after a kill, damage, a full disk."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import played_run
from played_run import Crash, Start, adapter, player
from qlora_fast.config import Config
from qlora_fast.errors import StorageError
from qlora_fast.hub import manifest
from qlora_fast.runs import layout
from qlora_fast.train.best import is_better

SETTINGS = {"load_best_model_at_end": True, "max_steps": 8}


def crash_at(update: int) -> Callable[[int], None]:
    def at(now: int) -> None:
        if now == update:
            raise Crash

    return at


@pytest.fixture
def start(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Evaluations are played: the best of 8 updates is at update 4."""
    return player(model_dir, tmp_path, monkeypatch)


@pytest.fixture
def killed(start: Start, tmp_path: Path) -> tuple[Start, Path, bytes]:
    """A run that was killed at update 7, behind its best at update 4; the best adapter's bytes."""
    with pytest.raises(Crash):
        start(at=crash_at(7), **SETTINGS)
    run = tmp_path / "run"
    return start, run, adapter(run / "best")


def _flip(best: Path) -> None:
    content = bytearray((best / layout.ADAPTER_WEIGHTS).read_bytes())
    content[-5] ^= 1
    (best / layout.ADAPTER_WEIGHTS).write_bytes(content)


def _replace(best: Path) -> None:
    """Another whole adapter under its name: the one of update 6."""
    shutil.rmtree(best)
    shutil.copytree(best.parent / "last", best)


HURT: dict[str, Callable[[Path], object]] = {
    "missing": shutil.rmtree,
    "one bit flipped": _flip,
    "weights missing": lambda best: (best / layout.ADAPTER_WEIGHTS).unlink(),
    "settings changed": lambda best: (best / layout.ADAPTER_CONFIG).write_text("{}"),
    "tokenizer missing": lambda best: (best / "tokenizer.json").unlink(),
    "manifest missing": lambda best: (best / layout.MANIFEST).unlink(),
    "another adapter": _replace,
}


@pytest.mark.parametrize("how", HURT)
def test_a_damaged_best_is_restored_from_its_checkpoint(
    killed: tuple[Start, Path, bytes], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    start, run, wanted = killed
    HURT[how](run / "best")
    start(resume_from_checkpoint=True, **SETTINGS)
    assert adapter(run) == adapter(run / "best") == wanted
    assert manifest.about(run / "best") == {"update": 4}
    assert "restored from" in caplog.text
    assert manifest.damage(run) is None, "the final adapter has its manifest too"


@pytest.mark.parametrize("how", ["missing", "one bit flipped", "another adapter"])
def test_without_its_checkpoint_the_best_is_gone_and_the_run_says_so(
    killed: tuple[Start, Path, bytes], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    start, run, wanted = killed
    HURT[how](run / "best")
    shutil.rmtree(run / "checkpoint-4")
    results = start(resume_from_checkpoint=True, **SETTINGS)
    assert not (run / "best").exists(), "never another adapter under that name"
    assert adapter(run) == adapter(run / "last") != wanted
    assert "the adapter of the best evaluation (update 4) is gone" in caplog.text
    assert results["ended"].endswith("the best adapter (update 4) is gone, this one is of the last update")
    assert results["eval_loss"] == 0.6, "the figures are those of the adapter that is there"


def test_a_best_that_a_killed_run_was_ahead_with_is_compared_again_at_the_end(start: Start, tmp_path: Path) -> None:
    """Killed between the evaluation of update 4 and its checkpoint: best/ is ahead of what the run resumes from."""
    whole = start(output_dir=str(tmp_path / "whole"), **SETTINGS)
    with pytest.raises(Crash):
        start(at=crash_at(5), **SETTINGS)
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    again = start(resume_from_checkpoint=True, **SETTINGS)
    assert again["best_step"] == whole["best_step"] == 4
    assert adapter(tmp_path / "run") == adapter(tmp_path / "whole")


def test_a_full_disk_costs_the_better_adapter_and_best_stays_true(
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from qlora_fast.train.adapter_folder import AdapterFolder

    real = AdapterFolder.write

    def write(self: AdapterFolder, folder: Path, update: int, weights: Path | None = None) -> None:
        if folder.name == "best" and update == 4:
            raise StorageError("no space left")
        real(self, folder, update, weights)

    monkeypatch.setattr(AdapterFolder, "write", write)
    results = start(early_stopping_steps=9, **SETTINGS)
    assert "the better adapter of update 4 is not kept: no space left" in caplog.text
    assert results["best_step"] == manifest.about(tmp_path / "run" / "best")["update"] == 8


def test_a_value_that_is_not_finite_never_wins() -> None:
    config = Config()
    assert not is_better(config, math.nan, None)
    assert not is_better(config, math.inf, 3.0)
    assert is_better(config, 3.0, math.nan)
    assert is_better(config, 3.0, None)
    assert is_better(config, 2.0, 3.0)
    assert not is_better(config, 3.0, 2.0)


def test_an_evaluation_that_is_not_finite_loses_and_no_file_holds_nan(
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(played_run, "LOSSES", {2: math.nan, 4: 0.9, 6: math.nan, 8: math.nan})
    results = start(**SETTINGS)
    assert results["best_step"] == 4
    assert results["eval_loss"] == 0.9
    assert "the evaluation loss is not finite at update 2" in caplog.text
    assert adapter(tmp_path / "run") == adapter(tmp_path / "run" / "checkpoint-4")
    for path in [*(tmp_path / "run").rglob("*.json"), *(tmp_path / "run").rglob("*.jsonl")]:
        assert not any(word in path.read_text() for word in ("NaN", "Infinity")), path
    log = [json.loads(line) for line in (tmp_path / "run" / layout.LOG).read_text().splitlines()]
    assert [entry["eval_loss"] for entry in log if "eval_loss" in entry] == [None, 0.9, None, None]


def test_a_run_whose_evaluations_are_never_finite_ends_with_its_last_adapter(
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(played_run, "LOSSES", dict.fromkeys((2, 4, 6, 8), math.nan))
    results = start(early_stopping_steps=3, **SETTINGS)
    assert results["best_step"] is None
    assert results["ended"] == "early stopping: 3 evaluations without a better eval_loss at all; 6 of 8 updates made"
    assert adapter(tmp_path / "run") == adapter(tmp_path / "run" / "last")
    again = start(resume_from_checkpoint=True, early_stopping_steps=9, **SETTINGS)
    assert again["train_steps"] == 8
