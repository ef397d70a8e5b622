"""A tracker may be missing, fail at any call, or hang: the run goes on and says so once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from paths import FIXTURES
from qlora_fast.config import Config, load
from qlora_fast.config.keys.output import TRACKERS
from qlora_fast.errors import ConfigError
from qlora_fast.train import trackers
from qlora_fast.train.trackers import Run, Trackers

ENTRIES = [{"step": k, "epoch": k / 3, "loss": 3.0 / k, "eval_loss": 4.0} for k in (1, 2, 3)]


class Fake:
    """Remembers what it was told, and raises at the call it is asked to."""

    def __init__(self, fails_at: str = "", error: BaseException | None = None) -> None:
        self.told: list[Any] = []
        self.fails_at, self.error = fails_at, error or RuntimeError("boom")

    def start(self, run: Run) -> Fake:
        self._tell("start", run.name)
        return self

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._tell("log", (step, dict(values)))

    def finish(self, results: Mapping[str, float], *, done: bool) -> None:
        self._tell("finish", (dict(results), done))

    def _tell(self, call: str, what: Any) -> None:
        if call == self.fails_at:
            raise self.error
        self.told.append((call, what))


def run_with(tmp_path: Path, *fakes: Fake, body: Callable[[Trackers], None] | None = None) -> None:
    run = Run("exp1", "proj", tmp_path, {"lora_rank": 8})
    with Trackers(run, {f"fake{i}": fake.start for i, fake in enumerate(fakes)}) as opened:
        for entry in ENTRIES:
            opened.log(entry)
        if body:
            body(opened)
        opened.finish({"train_loss": 1.0, "eval_loss": 2.0, "note": "text"})


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_entries_arrive_in_order_with_the_names_of_other_trainers(tmp_path: Path) -> None:
    fake = Fake()
    run_with(tmp_path, fake)
    assert [call for call, _ in fake.told] == ["start", "log", "log", "log", "finish"]
    assert fake.told[1] == ("log", (1, {"train/epoch": 1 / 3, "train/loss": 3.0, "eval/loss": 4.0}))
    assert fake.told[-1] == ("finish", ({"train/loss": 1.0, "eval/loss": 2.0}, True))


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), ConnectionError("no route"), SystemExit(3), KeyboardInterrupt()]
)
@pytest.mark.parametrize("call", ["start", "log", "finish"])
def test_a_failure_at_any_call_is_one_line_and_reaches_nobody_else(
    call: str, error: BaseException, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = Fake(call, error), Fake()
    run_with(tmp_path, broken, sound)
    assert len(sound.told) == 5
    assert len(warnings(caplog)) == 1
    assert warnings(caplog)[0].startswith("tracker fake0 is off: ")
    assert not [call for call, _ in broken.told if call == "finish"]


def test_a_missing_package_names_its_mend(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    error = ModuleNotFoundError("No module named 'wandb'", name="wandb")
    run_with(tmp_path, Fake("start", error))
    assert "pip install wandb" in warnings(caplog)[0]


@pytest.mark.parametrize("call", ["start", "log", "finish"])
def test_a_tracker_that_hangs_does_not_hold_the_run(
    call: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "PATIENCE_S", 0.2)
    forever = threading.Event()

    class Hanging(Fake):
        def _tell(self, now: str, what: Any) -> None:
            if now == call:
                forever.wait()

    started = time.monotonic()
    run_with(tmp_path, Hanging())
    assert time.monotonic() - started < 5
    assert "did not finish" in warnings(caplog)[0]
    forever.set()


def test_a_tracker_that_is_too_slow_is_turned_off_with_a_bounded_queue(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "PATIENCE_S", 0.2)
    forever = threading.Event()

    class Slow(Fake):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            forever.wait()

    def flood(opened: Trackers) -> None:
        for _ in range(3000):
            opened.log(ENTRIES[0])

    run_with(tmp_path, Slow(), body=flood)
    assert "does not keep up" in warnings(caplog)[0]
    forever.set()


def test_an_interrupted_run_is_told_as_not_done(tmp_path: Path) -> None:
    fake = Fake()

    def stop(_: Trackers) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run_with(tmp_path, fake, body=stop)
    assert fake.told[-1] == ("finish", ({}, False))


def test_report_to_names_trackers(tmp_path: Path) -> None:
    assert Config().trackers == ()
    assert load(None, ["report_to=tensorboard,wandb"]).config.trackers == ("tensorboard", "wandb")
    assert load(None, ["report_to=all"]).config.trackers == ("tensorboard", "wandb", "mlflow", "trackio")
    with pytest.raises(ConfigError, match="must be a list of none, all, tensorboard"):
        load(None, ["report_to=comet_ml"])
    with pytest.raises(ConfigError, match="names trackers and none"):
        load(None, ["report_to=none,wandb"])


def test_real_tensorboard_files_hold_the_values(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = load(None, ["report_to=tensorboard", f"output_dir={tmp_path}"]).config
    with Trackers.of(config) as opened:
        for entry in ENTRIES:
            opened.log(entry)
        opened.finish({"train_loss": 1.0})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert [e.value for e in events.Scalars("eval/loss")] == [4.0] * 3


def test_real_mlflow_files_hold_the_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = load(None, ["report_to=mlflow", f"output_dir={tmp_path}", "run_name=exp1", "project=guide"]).config
    with Trackers.of(config) as opened:
        for entry in ENTRIES:
            opened.log(entry)
        opened.finish({"eval_loss": 2.0})
    experiment = mlflow.get_experiment_by_name("guide")
    (run,) = mlflow.MlflowClient().search_runs([experiment.experiment_id])
    assert run.info.run_name == "exp1"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["train/loss"] == 1.0
    assert run.data.metrics["final/eval_loss"] == 2.0
    assert run.data.params["lora_rank"] == "8"


def test_a_run_ends_well_with_every_tracker_broken(
    model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qlora_fast.train import run

    fakes = {name: Fake(call) for name, call in zip(TRACKERS, ("start", "log", "finish", ""), strict=True)}
    monkeypatch.setattr(trackers, "_START", {name: fake.start for name, fake in fakes.items()})
    data = FIXTURES / "demo" / "alpaca_en.json"
    settings = {
        "model_name_or_path": model_dir, "dataset": data, "output_dir": tmp_path / "run", "prepared_dir": tmp_path / "p",
        "max_steps": 2, "logging_steps": 1, "max_samples": 8, "save_strategy": "no", "plot_loss": "false",
        "report_to": ",".join(TRACKERS), "run_name": "exp1",
    }  # fmt: skip
    results = run.train(load(None, [f"{k}={v}" for k, v in settings.items()]).config)
    assert results["train_steps"] == 2
    assert sorted(w.split()[1] for w in warnings(caplog) if w.startswith("tracker")) == [
        "mlflow",
        "tensorboard",
        "wandb",
    ]
    sound = fakes["trackio"].told
    assert sound[0] == ("start", "exp1")
    assert [step for call, (step, *_) in sound[1:] if call == "log"] == [1, 2]
    assert sound[-1][1][0]["train/loss"] == pytest.approx(results["train_loss"])


def test_what_a_killed_run_logged_behind_its_checkpoint_is_cut_off(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = load(None, ["report_to=tensorboard", f"output_dir={tmp_path}"]).config

    def write(steps: range, loss: float, resumed_at: int | None = None) -> None:
        with Trackers.of(config, resumed_at) as opened:
            for step in steps:
                opened.log({"step": step, "loss": loss})
        time.sleep(1.1)  # files are read in the order of their names, which have whole seconds

    write(range(1, 8), 1.0)
    write(range(5, 7), 2.0, resumed_at=4)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        *((step, 1.0) for step in range(1, 5)), (5, 2.0), (6, 2.0)
    ]  # fmt: skip
