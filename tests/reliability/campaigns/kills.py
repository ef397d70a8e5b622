"""Killed at call N of ``prep``, ``train`` and ``merge``, for every N; the next command gives what an undisturbed one gives.

A call is any that changes the file system: write, fsync, rename, mkdir, unlink, create, truncate, chmod, copy. Each write is
hit twice: before it, and when half of it is done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

from qlora_fast.runs import layout
from reliability.case import Campaign, Case, Failure, ended_well
from reliability.command import Ran
from reliability.folders import Digest, difference, digest, half_written, leftovers
from reliability.shim import Fault
from reliability.world import RESUME, World

SAID = (
    "no checkpoint at update",
    "stays as it was",
    "no scores by sample",
    "is not written",
    "no picture of the losses",
)
"""What a run reports that continues without a checkpoint, a better adapter, scores, a line of its log, a picture."""


@dataclass(frozen=True)
class Command:
    """A command that is disturbed, what is typed after it, and what must come of both.

    Attributes:
        words, again: the command, and the next one. made: the folder that it makes.
    """

    world: World
    name: str
    words: list[str | Path]
    again: list[str | Path]
    made: str

    @cached_property
    def undisturbed(self) -> tuple[list[str], Digest]:
        """The kinds of calls of an undisturbed command, and what it makes."""
        here = self.world.fresh()
        ran = ended_well(self.run(self.words, here))
        return ran.calls, digest(here / self.made)

    @property
    def calls(self) -> list[str]:
        return self.undisturbed[0]

    @property
    def expected(self) -> Digest:
        return self.undisturbed[1]

    def run(self, words: list[str | Path], here: Path, fault: Fault | None = None) -> Ran:
        """Run it with a cache of its own: what is kept there is written and killed as well."""
        return self.world.run(words, here, fault, lambda: os.environ.update(XDG_CACHE_HOME=str(here / "cache")))

    def continues(self, here: Path) -> str:
        """After a fault: nothing half written, and the next command makes what an undisturbed one makes, and nothing else.

        Raises:
            Failure: it does not.
        """
        if half := half_written(here / self.made):
            raise Failure("half written", "; ".join(half))
        ended_well(self.run(self.again, here), "the next command:")
        if other := difference(self.expected, digest(here / self.made)):
            raise Failure("different", other)
        if left := leftovers(here):
            raise Failure("left behind", ", ".join(left))
        return "identical"

    def continues_after(self, ran: Ran, here: Path) -> str:
        """The same after a command that may have continued without a file, if it reported that one and its updates are the same.

        Raises:
            Failure: as above.
        """
        try:
            return self.continues(here)
        except Failure as failure:
            last = str(Path(layout.LAST) / layout.ADAPTER_WEIGHTS)
            same = digest(here / self.made).get(last) == self.expected.get(last)
            if failure.kind == "different" and same and any(phrase in ran.err for phrase in SAID):
                return "cost what it said"
            raise


@cache
def commands(world: World) -> dict[str, Command]:
    """The three commands that write."""
    merge: list[str | Path] = ["merge", world.trained / "run", "-o", "out"]
    return {
        "prep": Command(world, "prep", world.prep_words(world.rows), world.prep_words(world.rows), "out"),
        "train": Command(world, "train", world.train_words(), world.train_words(RESUME), "run"),
        "merge": Command(world, "merge", merge, merge, "out"),
    }


def ended_before(command: Command, here: Path, ran: Ran) -> str:
    """A command that made too few calls for its fault (their number varies a little with what threads do).

    Raises:
        Failure: it did not end as an undisturbed one does.
    """
    ended_well(ran)
    if other := difference(command.expected, digest(here / command.made)):
        raise Failure("different", other)
    return "ended before"


def killed_at(command: Command, fault: Fault) -> str:
    """Kill the command there, and run the next one."""
    here = command.world.fresh()
    ran = command.run(command.words, here, fault)
    if ran.status == 0:
        if len(ran.calls) >= fault.at:
            raise Failure("not killed", f"it made {len(ran.calls)} calls and ended well")
        return ended_before(command, here, ran)
    if not ran.killed:
        raise Failure(ran.crashed or "not killed", ran.said)
    if command.name == "merge" and (here / command.made).is_dir():
        # Killed behind the rename: it is there, and the next command refuses to write over it.
        if other := difference(command.expected, digest(here / command.made)):
            raise Failure("half written", other)
        return "was complete"
    return command.continues(here)


def _cases(world: World, name: str) -> Iterator[Case]:
    command = commands(world)[name]
    for at, kind in enumerate(command.calls, 1):
        yield Case(f"{at:03d} {kind}", partial(killed_at, command, Fault(at)))
        if kind == "write":
            yield Case(f"{at:03d} half a write", partial(killed_at, command, Fault(at, torn=True)))


CAMPAIGNS = (
    Campaign("kill-prep", lambda world: _cases(world, "prep"), 12),
    Campaign("kill-train", lambda world: _cases(world, "train"), 12),
    Campaign("kill-merge", lambda world: _cases(world, "merge"), 8),
)
