"""A case: one thing that goes wrong, and how the program took it. A campaign: all cases of a kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reliability.command import Ran

if TYPE_CHECKING:
    from reliability.world import World


class Failure(Exception):  # noqa: N818  it is what a case is for
    """The program did not hold what it promises.

    Args:
        kind: ``failed``, ``different``, ``not reported``, ``left behind``, ``half written``, ``not killed``, ``traceback``,
            ``stopped responding``, ``crash``, ``unclear``, ``refused`` (a sound input), ``taken`` (an unsound one). detail: what happened.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Attributes:
        name: names it in the results, unique in its campaign.
        check: makes it happen. Returns how the program took it, in a word or two that are counted (``identical``,
            ``refused``); raises Failure.
    """

    name: str
    check: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Campaign:
    """All cases of a kind.

    Attributes:
        name: of its file and of its row. cases: made once the world stands; their order never changes, so that a campaign can
            be run in pieces. sample: how many of them ``make test-slow`` runs.
    """

    name: str
    cases: Callable[[World], Iterable[Case]]
    sample: int


def ended_well(ran: Ran, what: str = "") -> Ran:
    """A command that must succeed.

    Raises:
        Failure: it did not.
    """
    no_crash(ran)
    if ran.status != 0:
        raise Failure("failed", f"{what} exit status {ran.status}: {ran.said}"[:400])
    return ran


def no_crash(ran: Ran) -> Ran:
    """A command that may fail, but only as the command line documents it.

    Raises:
        Failure: a traceback, no end in time, or a signal of its own.
    """
    if ran.crashed:
        raise Failure(ran.crashed, ran.said[:400])
    return ran


def refused(ran: Ran, *words: str) -> str:
    """A command that must end with one clear error that has these words.

    Raises:
        Failure: it succeeded, crashed, or says something else.
    """
    no_crash(ran)
    if ran.status == 0:
        raise Failure("taken", ran.said[:200])
    if ran.status != 1 or not ran.said.startswith("error:"):
        raise Failure("unclear", f"exit status {ran.status}: {ran.said}"[:300])
    missing = [word for word in words if word not in ran.err]
    if missing:
        raise Failure("unclear", f"without {missing}: {ran.said}"[:300])
    return "refused"
