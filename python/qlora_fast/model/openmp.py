"""How torch's threads wait for each other beside other busy processes.

Every operation on a CPU ends with its threads waiting for the last of them. GNU's OpenMP, which torch's wheels for Linux
carry, lets them spin for 300,000 turns (some 10 ms) before they sleep. On an idle machine that is right: a thread that slept
is late at the next operation, and a run loses 10 to 25 %. Beside a busy process it is wrong: a thread that spins keeps a core
from the one it waits for, and a run loses four fifths. No fixed number of turns has both ends.

So it is decided by what is measured: a few times a second a watcher looks how long the threads of this process were ready to
run and got no core (``schedstat`` of Linux). While they wait, it holds a small OpenMP team of its own that does nothing.
Then there are more OpenMP threads than processors, and the runtime spins 100 turns instead [1]. What is computed, by how many
threads and in which order, stays the same, so results do not depend on neighbours.

``OMP_WAIT_POLICY`` and ``GOMP_SPINCOUNT`` are the user's: where one is set, nothing is watched.

[1] GCC, *GNU libgomp*, Environment Variables, ``GOMP_SPINCOUNT``.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

log = logging.getLogger(__name__)

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_LOOK_S = 0.15
"""Seconds between two looks."""
_CROWDED, _FREE = 0.10, 0.04
"""Cores' worth of waiting from which threads are to sleep, and below which they may spin again."""
_CALM_S = 2.0
"""Seconds without waiting before they spin again: a neighbour that comes and goes does not make it flutter."""
_TASKS = Path("/proc/self/task")


@dataclass(frozen=True, slots=True)
class Waiting:
    """How threads wait in this process.

    Attributes:
        watched: whether it is decided while running. why: what decided that, for people.
    """

    watched: bool
    why: str

    def __str__(self) -> str:
        return self.why


def waiting() -> Waiting:
    """What can be done here, with this torch and this environment."""
    named = [f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ]
    if named:
        return Waiting(False, f"as {' and '.join(named)} says")
    runtime = _runtime()
    if runtime != "libgomp":
        return Waiting(False, f"left to {runtime or 'an unknown OpenMP'}; KMP_BLOCKTIME=0 helps beside busy processes")
    if torch.get_num_threads() < 2:
        return Waiting(False, "one thread, which waits for none")
    if _team() > torch.get_num_threads():
        return Waiting(False, "spinning: with fewer threads than cores there are cores for others")
    if _waited() is None:
        return Waiting(False, "spinning: this system does not report how long threads wait for a core")
    return Waiting(True, "spinning, and sleeping while other processes keep the cores busy")


class Considerate:
    """Watches, in a thread of its own, from :meth:`start` to :meth:`stop`.

    Attributes:
        yielded: seconds in which threads slept instead of spinning.
    """

    def __init__(self) -> None:
        self.yielded = 0.0
        self._ended = threading.Event()
        self._team: _IdleTeam | None = None
        self._thread = threading.Thread(target=self._watch, name="qlora-fast-openmp", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            self._look()
        except (OSError, RuntimeError) as error:  # no descriptor or no thread is left
            log.debug("threads are no longer watched: %r", error)
        finally:
            if self._team is not None:
                self._team.leave()
                self._team = None

    def _look(self) -> None:
        before, looked, calm_since = _waited() or 0.0, time.monotonic(), 0.0
        while not self._ended.wait(_LOOK_S):
            waited, now = _waited() or 0.0, time.monotonic()
            # A thread that ended takes its part of the sum with it.
            share = max(0.0, waited - before) / (now - looked)
            if self._team is not None:
                self.yielded += now - looked
            if share >= _FREE:
                calm_since = now
            self._decide(share, now - calm_since)
            before, looked = waited, now

    def _decide(self, share: float, calm: float) -> None:
        if self._team is None and share >= _CROWDED:
            self._team = _IdleTeam()
        elif self._team is not None and calm >= _CALM_S:
            self._team.leave()
            self._team = None


@contextmanager
def considerate(device: torch.device) -> Iterator[Considerate | None]:
    """Inside, threads of this process sleep while others need the cores; None where nothing is watched."""
    if device.type != "cpu" or not waiting().watched:
        yield None
        return
    watcher = Considerate()
    watcher.start()
    try:
        yield watcher
    finally:
        watcher.stop()


class _IdleTeam:
    """OpenMP threads that have nothing to do, and end with the thread that they belong to."""

    def __init__(self) -> None:
        self._leave = threading.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(ready,), name="qlora-fast-idle", daemon=True)
        self._thread.start()
        ready.wait()

    def leave(self) -> None:
        self._leave.set()
        self._thread.join()

    def _hold(self, ready: threading.Event) -> None:
        try:
            # Large enough that torch takes as many threads as are needed to outnumber the processors.
            torch.empty(_team() << 15, dtype=torch.uint8).fill_(0)
        finally:
            ready.set()
        self._leave.wait()


def _team() -> int:
    """Threads of a team that, beside the one that computes, makes one more than there are processors."""
    return len(os.sched_getaffinity(0)) - torch.get_num_threads() + 2


def _runtime() -> str | None:
    """The OpenMP that is loaded, by the name of its library. torch itself does not say."""
    try:
        loaded = (_TASKS.parent / "maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    names = {Path(line.split()[-1]).name for line in loaded.splitlines() if line.endswith((".so", ".1", ".5"))}
    for known in ("libiomp", "libomp", "libgomp"):  # the first two also stand in for the third where all are loaded
        if any(name.startswith(known) for name in names):
            return known
    return None


def _waited() -> float | None:
    """Seconds that the threads of this process have been ready to run without a core, in all; None if it is not told."""
    total, told = 0, False
    for task in os.scandir(_TASKS) if _TASKS.is_dir() else ():
        try:
            fields = Path(task.path, "schedstat").read_text(encoding="ascii").split()
        except OSError:  # the thread has ended
            continue
        if len(fields) >= 2:
            total, told = total + int(fields[1]), True
    return total / 1e9 if told else None
