"""Where the log of a run also goes: TensorBoard, Weights & Biases, MLflow, Trackio.

A tracker is another program, often at the other end of a network. It may be missing, fail, or hang; training
goes on. So each one works on a thread of its own behind a short queue: the run only ever puts an entry down, and the
first failure turns that tracker off with one line.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from qlora_fast.config import Config
from qlora_fast.errors import first_line

log = logging.getLogger(__name__)

_WAITING = 1000
"""Entries that may wait for a slow tracker; beyond that it is turned off rather than slow the run."""
PATIENCE_S = 30.0
"""How long the end of a run waits for what a tracker still has to send."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a tracker is told at the start.

    Attributes:
        resumed_at: the update that the run resumes from; None at its beginning. What an earlier process logged behind it
            is made again.
    """

    name: str
    project: str
    folder: Path
    settings: Mapping[str, Any]
    resumed_at: int | None = None


class Tracker(Protocol):
    """One place for metrics. Any call may raise; the first that does is the last."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step, named as the Hugging Face trainers name them: train/loss, eval/loss."""

    def finish(self, results: Mapping[str, float], *, done: bool) -> None:
        """The end: results of the whole run, and whether it got there."""


Start = Callable[[Run], Tracker]


class Trackers:
    """All trackers of a run, as a context around it. Without any it does nothing."""

    def __init__(self, run: Run | None = None, starts: Mapping[str, Start] | None = None) -> None:
        self._workers = [_Worker(name, start, run) for name, start in (starts or {}).items()] if run else []
        self._results: dict[str, float] = {}

    @classmethod
    def of(cls, config: Config, resumed_at: int | None = None) -> Trackers:
        """The trackers of ``report_to``; `all` takes those that are installed.

        Args:
            resumed_at: see :class:`Run`.
        """
        run = Run(
            name=config.run_name or config.output_dir,
            project=config.project,
            folder=Path(config.output_dir),
            settings={k: v for k, v in asdict(config).items() if v is not None},
            resumed_at=resumed_at,
        )
        names = [n for n in config.trackers if "all" not in config.report_to or find_spec(n)]
        if "all" in config.report_to and not names:
            log.warning("report_to: all found no tracker installed")
        return cls(run, {name: _START[name] for name in names})

    def log(self, entry: Mapping[str, float]) -> None:
        """Pass on an entry of the training log; returns at once."""
        step = int(entry["step"])
        values = {_name(key): float(value) for key, value in entry.items() if key != "step"}
        for worker in self._workers:
            worker.put(lambda tracker: tracker.log(step, values))

    def finish(self, results: Mapping[str, Any]) -> None:
        """What to report at the end of the run; set before the context closes."""
        self._results = {_name(k): float(v) for k, v in results.items() if isinstance(v, int | float)}

    def __enter__(self) -> Trackers:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        for worker in self._workers:
            worker.put(lambda tracker: tracker.finish(self._results, done=kind is None))
            worker.put(None)
        until = time.monotonic() + PATIENCE_S
        for worker in self._workers:
            worker.join(until)


class _Worker:
    """A tracker on its own thread; its first failure, or a full queue, is one warning and then silence."""

    def __init__(self, name: str, start: Start, run: Run) -> None:
        self._name, self._start, self._run = name, start, run
        self._queue: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(_WAITING)
        self._off = threading.Event()
        # A daemon: a tracker that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, call: Callable[[Tracker], None] | None) -> None:
        if self._off.is_set():
            return
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            self._turn_off("it does not keep up")

    def join(self, until: float) -> None:
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._turn_off(f"it did not finish within {PATIENCE_S:.0f} s")

    def _work(self) -> None:
        try:
            tracker = self._start(self._run)
            while (call := self._queue.get()) is not None and not self._off.is_set():
                call(tracker)
        # Whatever it raises, SystemExit included: this is the border.
        except BaseException as error:
            self._turn_off(_reason(error))

    def _turn_off(self, reason: str) -> None:
        if not self._off.is_set():
            self._off.set()
            log.warning(
                "tracker %s is off: %s; training continues, trainer_log.jsonl has everything", self._name, reason
            )


class _TensorBoard:
    """Event files in ``output_dir/tensorboard``. TensorBoard leaves out what earlier files have from ``purge_step`` on.

    The other trackers begin a run of their own at each start: theirs has nothing to be left out.
    """

    def __init__(self, run: Run) -> None:
        behind = None if run.resumed_at is None else run.resumed_at + 1
        summary_writer = _package("torch.utils.tensorboard").SummaryWriter
        self._writer: Any = summary_writer(str(run.folder / "tensorboard"), purge_step=behind)
        rows = "".join(f"| {name} | {value} |\n" for name, value in run.settings.items())
        self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, results: Mapping[str, float], *, done: bool) -> None:
        self._writer.close()


class _Wandb:
    """A run of Weights & Biases; without a key it is kept on disk, to be sent by ``wandb sync``."""

    def __init__(self, run: Run) -> None:
        wandb = _package("wandb")
        # Asking for a key at the terminal would stop the run until there is an answer.
        mode = None if wandb.login(prompt=False) else "offline"
        self._run: Any = wandb.init(
            project=run.project, name=run.name, config=dict(run.settings), dir=str(run.folder), mode=mode
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, results: Mapping[str, float], *, done: bool) -> None:
        self._run.summary.update(dict(results))
        self._run.finish(exit_code=0 if done else 1)


class _MLflow:
    """A run of MLflow, on the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, run: Run) -> None:
        self._mlflow = mlflow = _package("mlflow")
        mlflow.set_experiment(run.project)
        mlflow.start_run(run_name=run.name)
        # MLflow refuses longer values.
        mlflow.log_params({name: str(value)[:500] for name, value in run.settings.items()})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def finish(self, results: Mapping[str, float], *, done: bool) -> None:
        self._mlflow.log_metrics({f"final/{name.replace('/', '_')}": value for name, value in results.items()})
        self._mlflow.end_run("FINISHED" if done else "FAILED")


class _Trackio:
    """A run of Trackio, on this machine."""

    def __init__(self, run: Run) -> None:
        self._trackio = _package("trackio")
        self._trackio.init(project=run.project, name=run.name, config=dict(run.settings))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def finish(self, results: Mapping[str, float], *, done: bool) -> None:
        self._trackio.finish()


_START: dict[str, Start] = {"tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _MLflow, "trackio": _Trackio}


def _package(name: str) -> Any:
    """Imported by name, and untyped: which of them are installed must not matter to the type checker."""
    return import_module(name)


def _name(key: str) -> str:
    """``loss`` → ``train/loss``, ``eval_loss`` → ``eval/loss``: the dashboards of other trainers fit."""
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key.removeprefix('train_')}"


def _reason(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is not installed (pip install {error.name})"
    return f"{type(error).__name__}: {first_line(error)}"
