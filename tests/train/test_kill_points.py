"""A run that is killed at any moment leaves a folder that the next command takes, and ends as if it had not been killed.

Here at some calls, in this process; the campaign ``kill-train`` of tests/reliability kills a process at every one.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import dying
from dying import Crash
from qlora_fast import atomic_io
from qlora_fast.config import load
from qlora_fast.errors import ArtifactError
from qlora_fast.hub import manifest
from qlora_fast.runs import layout
from qlora_fast.train.run import train
from tiny_folder import config_file

SETTINGS = {
    "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "val_size": 4,
    "max_samples": 16, "plot_loss": "false", "lora_dropout": 0.1, "load_best_model_at_end": "true", "save_total_limit": 1,
}  # fmt: skip
TIMES = re.compile(r"_(second|runtime)$|^train_steps_per_second$")


class Dying(dying.Dying):
    """A run that dies."""

    def run(self, config: Path, *words: str, at: int = 10**9) -> None:
        self.call(lambda: train(load(config, words).config), at)


def results(run: Path) -> dict[str, bytes]:
    """What must not depend on a kill: the adapters of the run, and its last checkpoint."""
    places = [run, run / layout.BEST, run / layout.LAST, run / layout.checkpoint(4)]
    names = (layout.ADAPTER_WEIGHTS, layout.ADAPTER_CONFIG, layout.OPTIMIZER, layout.RANDOM)
    return {f"{p.relative_to(run)}/{n}": (p / n).read_bytes() for p in places for n in names if (p / n).is_file()}


def logged(run: Path) -> list[dict[str, float]]:
    entries = [json.loads(line) for line in (run / layout.LOG).read_text().splitlines()]
    return [{k: v for k, v in entry.items() if not TIMES.search(k) and "per_second" not in k} for entry in entries]


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Dying:
    return Dying(monkeypatch)


@pytest.fixture
def config(model_dir: Path, tmp_path: Path) -> Path:
    path = config_file(tmp_path, model_dir, **{**SETTINGS, "logging_steps": 1})
    train(load(path, ["output_dir=" + str(tmp_path / "warm")]).config)  # the data is prepared
    return path


def sweep(config: Path, dying: Dying, moments: Callable[[int], range]) -> None:
    folder = config.parent
    dying.run(config, f"output_dir={folder / 'whole'}")
    total = dying.calls
    assert total > 60
    for moment in moments(total):
        output = folder / f"cut-{moment}" / "run"
        with pytest.raises(Crash):
            dying.run(config, f"output_dir={output}", at=moment)
        dying.run(config, f"output_dir={output}", "resume_from_checkpoint=true")
        assert results(output) == results(folder / "whole"), f"killed at call {moment} of {total}"
        assert logged(output) == logged(folder / "whole"), "no line twice, none missing"
        assert not [p.name for p in [*output.parent.iterdir(), *output.iterdir()] if atomic_io.is_temporary(p)]
        assert manifest.damage(output) is None
        shutil.rmtree(output.parent)


def test_a_kill_between_the_folder_and_its_first_file(config: Path, dying: Dying) -> None:
    sweep(config, dying, lambda total: range(1, 8, 2))


def test_a_kill_in_the_middle_and_at_the_end(config: Path, dying: Dying) -> None:
    sweep(config, dying, lambda total: range(total // 4, total, total // 4))


def test_a_run_that_is_killed_before_its_first_checkpoint_logs_no_line_twice(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / layout.RUN).write_text("{}")
    lines = (tmp_path / "warm" / layout.LOG).read_text().splitlines(keepends=True)
    (run / layout.LOG).write_text("".join(lines[:1]) + '{"step": 2, "lo')
    train(load(config, ["resume_from_checkpoint=true"]).config)
    assert logged(run) == logged(tmp_path / "warm")


def test_a_folder_of_somebody_else_is_still_refused(config: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="is not empty and not a run"):
        train(load(config).config)


def test_what_dead_processes_left_goes_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = platform.node()
    ours = [f".a.tmp-{dead.pid}@{host}", f".b.old-{dead.pid}@{host}", f".c.gone-{dead.pid}@{host}"]
    others = [f".d.tmp-{os.getpid()}@{host}", f".e.tmp-{dead.pid}@elsewhere", ".f.tmp-1", ".g", "h.tmp-1@x"]
    for name in [*ours, *others]:
        (tmp_path / name).mkdir()
    (tmp_path / f".i.tmp-{dead.pid}@{host}").write_text("half a file")
    atomic_io.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "b"]), "what was moved aside is back"
