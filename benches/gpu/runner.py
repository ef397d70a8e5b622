"""Runs each item in a process of its own, keeps every line that it prints, and stops it when its time is up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benches.gpu.schedule import Item

ROOT = Path(__file__).parents[2]
Record = dict[str, Any]
_LAST_WORDS = 12
"""Lines of an item's stderr that are kept when it fails."""


class StoppedError(Exception):
    """SIGTERM or SIGINT came: no further item is started."""


class Runner:
    """Writes ``results.jsonl`` in ``out``, a line as soon as it is known.

    Args:
        total: seconds for all items together. arguments: given to every item.
        command: how an item is started; tests give their own.
    """

    def __init__(
        self,
        out: Path,
        total: float,
        arguments: Sequence[str] = (),
        command: Callable[[Item], list[str]] | None = None,
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out = out
        self.records: list[Record] = []
        self._end = time.monotonic() + total
        self._arguments = list(arguments)
        self._command = command or (lambda item: [sys.executable, "-m", f"benches.gpu.items.{item.name}"])
        self._file = (out / "results.jsonl").open("w", encoding="utf-8")
        self._child: subprocess.Popen[str] | None = None

    def run(self, items: Sequence[Item], after_each: Callable[[list[Record]], None]) -> None:
        """Run ``items`` in order; ``after_each`` gets all records so far.

        Raises:
            StoppedError: a signal came; what was measured so far is recorded.
        """
        before = {s: signal.signal(s, self._stop) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            for item in items:
                self._run_one(item)
                after_each(self.records)
        finally:
            self._kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def record(self, record: Record) -> None:
        """Keep one line, also if the very next thing is the end of this process."""
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _run_one(self, item: Item) -> None:
        left = min(item.seconds, self._end - time.monotonic())
        if left < 1:
            self.record({"item": item.name, "ended": "not run", "why": "no time left", "seconds": 0.0})
            return
        started = time.monotonic()
        ended, why = "stopped", "a signal"
        try:
            ended, why = self._watch(item, left)
        finally:
            seconds = round(time.monotonic() - started, 1)
            self.record({"item": item.name, "ended": ended, "why": why, "seconds": seconds})

    def _watch(self, item: Item, left: float) -> tuple[str, str]:
        """Start one item and read its lines until it ends or its time does. Returns (how it ended, why)."""
        log = self.out / f"{item.name}.log"
        with log.open("w", encoding="utf-8") as stderr:
            self._child = subprocess.Popen(
                [*self._command(item), *self._arguments],
                cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True,
            )  # fmt: skip
            reader = threading.Thread(target=self._read, args=(item, self._child), daemon=True)
            reader.start()
            try:
                status = self._child.wait(timeout=left)
                ended, why = ("done", "") if status == 0 else ("failed", f"exit status {status}: {_tail(log)}")
            except subprocess.TimeoutExpired:
                ended, why = "timed out", f"after {left:.0f} s"
            self._kill()
            reader.join(timeout=5)
        return ended, why

    def _read(self, item: Item, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            try:
                found = json.loads(line)
            except ValueError:
                continue  # a library's chatter
            if isinstance(found, dict):
                self.record({"item": item.name, **found})

    def _stop(self, number: int, _: object) -> None:
        raise StoppedError(signal.Signals(number).name)

    def _kill(self) -> None:
        """End the running item with everything that it started."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            self._child = None


def _environment() -> dict[str, str]:
    paths = [str(ROOT / "python"), str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LAST_WORDS:])
