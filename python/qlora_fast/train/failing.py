"""How the processes of a run notice that one of them has failed or ended, and which one reports it. No torch.

::

    each    every half second: sets its sign of life, looks at those of all; the first to announce a failure reports it, the others do not
    rank 0  may hold the store, and stays until the others have looked; where it is gone, one process of each machine reports that
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from qlora_fast.errors import TrainingError
from qlora_fast.train.lateness import LATE_S, Lateness, named
from qlora_fast.train.lifeline import Lifeline

if TYPE_CHECKING:
    from qlora_fast.train.distributed import Ranks

log = logging.getLogger(__name__)

LOOK_S = 0.05
_BEAT_S = 0.5
SILENT_S = 120.0
"""A process that has not responded for so long is considered dead; it responds even while a large model is loaded."""
GRACE_S = 3.0
COLLECTIVE = timedelta(minutes=30)
"""How long a sum over the processes may wait for the slowest: as long as rank 0 may take to write a checkpoint."""


def reported_by_another(me: Ranks, by_another: bool, watch: Watch) -> bool:
    """Whether another rank reports the error. A rank whose connection broke gives that one time to do so."""
    try:
        until = time.monotonic() + (GRACE_S if by_another else 0)
        while me.failed_rank() is None and time.monotonic() < until:
            time.sleep(LOOK_S)
        if me.claim_failure():
            # At the very end: by then the error has been shown.
            atexit.register(_announce_report, me, watch.lifeline)
            return False
        _wait_for_report(me.store)
        _wait_for_readers(me, watch.lifeline)
        return True
    except RuntimeError:  # the store is gone with its holder
        return watch.reported or (by_another and not _reports_for_its_machine(me))


def _announce_report(me: Ranks, lifeline: Lifeline) -> None:
    with suppress(RuntimeError):
        me.store.set("told", "")
    _wait_for_readers(me, lifeline)


def _wait_for_readers(me: Ranks, lifeline: Lifeline) -> None:
    """Rank 0 may hold the store: it stays until the others have looked into it, or they would report its end as well."""
    until = time.monotonic() + GRACE_S
    with suppress(RuntimeError):
        while me.first and time.monotonic() < until:
            living = me.world - (lifeline.ended is not None)
            if me.store.add("heard", 0) >= living - 1:  # all but the one that reports
                return
            time.sleep(LOOK_S)


def _reports_for_its_machine(me: Ranks) -> bool:
    """Whether this rank reports that the store is gone: nothing is left to agree by, so one on each machine does."""
    return me.rank == 1 if me.rank == me.local_rank else me.local_rank == 0


def _wait_for_report(store: Any) -> None:
    """Stay until the rank that failed has shown its error: a launcher ends all of them when the first one ends."""
    until = time.monotonic() + GRACE_S
    with suppress(RuntimeError):
        while not store.check(["told"]) and time.monotonic() < until:
            time.sleep(LOOK_S)


def who_ended(lifeline: Lifeline, otherwise: str) -> str:
    """The rank that ended. Its connection may be seen to end a moment later than what else ends with it, such as the store."""
    until = time.monotonic() + GRACE_S
    while lifeline.ended is None and time.monotonic() < until:
        time.sleep(LOOK_S)
    return otherwise if lifeline.ended is None else f"rank {lifeline.ended}"


def ended_without_message(who: str) -> TrainingError:
    """What is reported of a process that ended and reported nothing itself."""
    return TrainingError(
        f"{who} ended without an error message",
        hint="the launcher's output has its exit status (−9 is often the machine's memory); "
        "resume_from_checkpoint=true resumes from the last checkpoint",
    )


class Watch(threading.Thread):
    """Shows that this process is alive, and ends it when another has failed and the main thread cannot notice.

    A sum over GPUs waits for a dead process until its time-out, and nothing but the end of the process wakes it.
    """

    def __init__(self, me: Ranks, lifeline: Lifeline) -> None:
        super().__init__(name="qlora-fast-ranks", daemon=True)
        self._me = me
        self.lifeline = lifeline
        self._ended = threading.Event()
        # Of its own: a store's connection serves one thread at a time.
        self._store = me.store.clone()
        self._lateness = Lateness()
        self.reported = False
        """Whether another rank has announced that it reports an error."""

    def end(self) -> None:
        """The main thread has come to its own end. A thread that is inside the store when Python ends would abort it."""
        self._ended.set()
        self.join(2 * GRACE_S)

    def run(self) -> None:
        heard = dict.fromkeys(range(self._me.world), (b"", time.monotonic()))
        beat, missing = 0, None
        while missing is None and not self._ended.wait(_BEAT_S):
            beat += 1
            try:
                missing = self._look(beat, heard)
            except RuntimeError:
                reported = self.reported or not _reports_for_its_machine(self._me)
                missing = "" if reported else who_ended(self.lifeline, "the process that the others meet at")
        if missing is None:
            return
        if self._ended.wait(GRACE_S):
            return
        _wait_for_report(self._store)
        if not missing:
            _wait_for_readers(replace(self._me, store=self._store), self.lifeline)
        else:
            error = ended_without_message(missing)
            log.error("error: %s\n\nhint: %s", error, error.hint)
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h")  # a progress bar has hidden the cursor
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(1)

    def _look(self, beat: int, heard: dict[int, tuple[bytes, float]]) -> str | None:
        """Which process is missing: None if none is, "" for one that has reported its error, else what to report."""
        store, me = self._store, self._me
        store.set(f"alive/{me.rank}", f"{beat} {me.sums}")
        if store.check(["failed"]):
            self._note_report()
            return ""
        if self.lifeline.ended is not None:
            return self._missing(self.lifeline.ended)
        now = time.monotonic()
        for rank, (last, when) in heard.items():
            sign = store.get(f"alive/{rank}") if store.check([f"alive/{rank}"]) else b""
            if sign != last:
                heard[rank] = (sign, now)
            elif now - when > SILENT_S:
                return self._missing(rank)
        if me.first:
            self._report_late({rank: int(sign.split()[1]) for rank, (sign, _) in heard.items() if sign}, now)
        return None

    def _note_report(self) -> None:
        if not self.reported and int(self._store.get("failed")) != self._me.rank:
            self.reported = True
            self._store.add("heard", 1)

    def _report_late(self, counts: dict[int, int], now: float) -> None:
        if late := self._lateness.late(counts, now):
            log.warning(
                "the other processes have waited %.0f seconds for %s; they end after %.0f minutes",
                LATE_S, named(late), COLLECTIVE.total_seconds() / 60,
            )  # fmt: skip

    def _missing(self, rank: int) -> str:
        """What to report of a rank that ended: one rank reports it for all."""
        first = int(self._store.compare_set("failed", "", str(self._me.rank))) == self._me.rank
        self._note_report()
        return f"rank {rank}" if first else ""
