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

from reliability.case import Campaign, Case, Failure, ended_well
from reliability.command import Ran
from reliability.folders import Digest, difference, digest, half_written, leftovers
from reliability.shim import Fault
from reliability.world import RESUME, World


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

    def goes_on(self, here: Path) -> str:
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


@cache
def commands(world: World) -> dict[str, Command]:
    """The three commands that write."""
    merge: list[str | Path] = ["merge", world.trained / "run", "-o", "out"]
    return {
        "prep": Command(world, "prep", world.prep_words(world.rows), world.prep_words(world.rows), "out"),
        "train": Command(world, "train", world.train_words(), world.train_words(RESUME), "run"),
        "merge": Command(world, "merge", merge, merge, "out"),
    }


def killed_at(command: Command, fault: Fault) -> str:
    """Kill the command there, and go on."""
    here = command.world.fresh()
    ran = command.run(command.words, here, fault)
    if ran.status == 0:
        return "ended before"  # the number of writes varies a little with what threads do
    if not ran.killed:
        raise Failure(ran.crashed or "not killed", ran.said)
    if command.name == "merge" and (here / command.made).is_dir():
        # Killed behind the rename: it is there, and the next command refuses to write over it.
        if other := difference(command.expected, digest(here / command.made)):
            raise Failure("half written", other)
        return "was complete"
    return command.goes_on(here)


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
