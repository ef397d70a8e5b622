"""Errors at call N of ``prep``, ``train`` and ``merge``: a full disk, a failing one, a folder that may not be written.

Each call gets an error that it can really have. The command ends with one clear error or continues without what it lacks; what
it finishes is what an undisturbed command makes; the next command makes the rest.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from functools import partial

from reliability.campaigns.kills import Command, commands, ended_before
from reliability.case import Campaign, Case, Failure, no_crash
from reliability.folders import difference, digest, half_written
from reliability.shim import Fault
from reliability.world import World

POSSIBLE = {
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT),
    "fsync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EIO, errno.ENOSPC, errno.EACCES),
    "mkdir": (errno.ENOSPC, errno.EACCES, errno.EROFS),
    "unlink": (errno.EIO, errno.EACCES),
    "create": (errno.EMFILE, errno.ENOSPC, errno.EACCES, errno.EROFS),
    "truncate": (errno.ENOSPC, errno.EIO),
    "chmod": (errno.EPERM, errno.EROFS),
    "copy": (errno.ENOSPC, errno.EIO),
}
LASTING_EVERY = 7
"""At every so many calls, from there on every call that needs space fails."""


def _cases(world: World) -> Iterator[Case]:
    for name, command in commands(world).items():
        for at, kind in enumerate(command.calls, 1):
            number = POSSIBLE[kind][at % len(POSSIBLE[kind])]
            what = f"{name} {at:03d} {kind} {errno.errorcode[number]}"
            yield Case(what, partial(disturbed, command, Fault(at, number)))
        for kind in ("write", "create", "fsync", "rename"):
            for at in range(1, command.calls.count(kind) + 1, LASTING_EVERY):
                fault = Fault(at, errno.ENOSPC, lasting=True, kind=kind)
                what = f"{name} {at:03d} {kind} ENOSPC from then on"
                yield Case(what, partial(disturbed, command, fault))


def disturbed(command: Command, fault: Fault) -> str:
    """Run the command with an error in it, and the next one without."""
    here = command.world.fresh()
    ran = no_crash(command.run(command.words, here, fault))
    if len(ran.calls) < fault.at:
        return ended_before(command, here, ran)
    if ran.status not in (0, 1):
        raise Failure("unclear", f"exit status {ran.status}: {ran.said}")
    if ran.status == 1 and not ran.said.startswith("error:"):
        raise Failure("unclear", ran.said)
    there = here / command.made
    if ran.status == 0 and command.name != "train" and (other := difference(command.expected, digest(there))):
        raise Failure("not reported", other)
    if command.name == "merge" and there.is_dir():
        if other := difference(command.expected, digest(there)):
            raise Failure("half written", other)
        return f"exit {ran.status}, complete"
    if half := half_written(there):
        raise Failure("half written", "; ".join(half))
    return f"exit {ran.status}, {command.continues_after(ran, here)}"


CAMPAIGN = Campaign("errors", _cases, 24)
