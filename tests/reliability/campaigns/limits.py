"""Limits of the machine: files that may not grow, few descriptors, little memory, a full disk, a read-only one, a closed stderr."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from reliability.campaigns.kills import Command, commands
from reliability.case import Campaign, Case, Failure, ended_well, no_crash
from reliability.command import Ran
from reliability.folders import difference, digest, half_written
from reliability.world import World

FILE_BYTES = (0, 20, 500, 1_000, 4_000, 10_000, 20_000, 50_000, 60_000)
DESCRIPTORS = (4, 8, 12, 16, 24, 32, 64)
FREE_MIB = (0, 1, 4, 16, 64, 256)
OUT_OF_MEMORY = ("cannot allocate memory for thread-local data", "memory allocation of ", "std::bad_alloc")
"""What the C library, Rust and C++ say when they abort: no program can do anything about it."""
DISK_KIB = (4, 8, 32, 64, 128, 256, 400)


def largest_file(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def most_descriptors(number: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))


def memory(more: int) -> None:
    """So much address space beyond what the process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def stream_to(path: str, descriptor: int) -> None:
    os.dup2(os.open(path, os.O_WRONLY), descriptor)


def _cases(world: World) -> Iterator[Case]:
    for name, command in commands(world).items():
        assert command.expected  # before anything is mounted
        made: dict[str, Callable[[], None]] = {
            **{f"no file over {n} bytes": partial(largest_file, n) for n in FILE_BYTES},
            **{f"{n} descriptors": partial(most_descriptors, n) for n in DESCRIPTORS},
            **{f"{n} MiB of memory": partial(memory, n << 20) for n in FREE_MIB},
        }
        for what, before in made.items():
            yield Case(f"{name}, {what}", partial(limited, command, before))
        yield Case(f"{name}, stderr on a full disk", partial(_streams, command, partial(stream_to, "/dev/full", 2)))
        yield Case(f"{name}, stderr closed", partial(_streams, command, partial(os.close, 2)))
        yield Case(f"{name}, stdout on a full disk", partial(limited, command, partial(stream_to, "/dev/full", 1)))
        for size in DISK_KIB if can_mount(world) else ():
            yield Case(f"{name}, a disk of {size} KiB", partial(_small_disk, command, size))
    if can_mount(world):
        yield Case("train, a read-only disk", partial(_read_only, commands(world)["train"]))


def limited(command: Command, before: Callable[[], None]) -> str:
    """Run the command under a limit, and the next one without."""
    here = command.world.fresh()

    def both() -> None:
        os.environ["XDG_CACHE_HOME"] = str(here / "cache")
        before()

    return _judged(command, here, command.world.run(command.words, here, before=both))


def _judged(command: Command, here: Path, ran: Ran) -> str:
    """A command that was limited: one clear error, or what an undisturbed one makes; and the next command continues."""
    if any(words in ran.err for words in OUT_OF_MEMORY) and (ran.crashed == "crash" or ran.status == 127):
        return _next(command, here, ran, "aborted by the allocator")
    no_crash(ran)
    if ran.status not in (0, 1):
        raise Failure("unclear", f"exit status {ran.status}: {ran.said}")
    if ran.status == 1 and not ran.said.startswith("error:"):
        raise Failure("unclear", ran.said)
    return _next(command, here, ran, f"exit {ran.status}")


def _next(command: Command, here: Path, ran: Ran, end: str) -> str:
    there = here / command.made
    if command.name == "merge" and there.is_dir():
        if other := difference(command.expected, digest(there)):
            raise Failure("half written", other)
        return f"{end}, complete"
    return f"{end}, {command.continues_after(ran, here)}"


def _streams(command: Command, before: Callable[[], None]) -> str:
    """Nothing that is said may end the work: the result is that of an undisturbed command."""
    here = command.world.fresh()
    ended_well(command.world.run(command.words, here, before=before))
    if other := difference(command.expected, digest(here / command.made)):
        raise Failure("different", other)
    return "identical"


def can_mount(world: World) -> bool:
    """Whether a small file system can be mounted here: in a container or as root."""
    place = world.root / "mounted"
    place.mkdir(exist_ok=True)
    return _mount(place, "size=64k") and _umount(place)


def _mount(place: Path, options: str) -> bool:
    words = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def _umount(place: Path) -> bool:
    return subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode == 0


def _small_disk(command: Command, size: int) -> str:
    """On a disk of so many KiB; then the disk is made large, and the next command continues."""
    here = command.world.fresh() / "disk"
    here.mkdir()
    if not _mount(here, f"size={size}k"):
        raise Failure("no disk", "mount failed")
    try:
        ran = command.run(command.words, here)
        if half := half_written(here / command.made):
            raise Failure("half written", "; ".join(half))
        subprocess.run(["mount", "-o", "remount,size=64m", str(here)], capture_output=True, check=False)
        return _judged(command, here, ran)
    finally:
        _umount(here)


def _read_only(command: Command) -> str:
    here = command.world.fresh() / "disk"
    here.mkdir()
    if not _mount(here, "ro"):
        raise Failure("no disk", "mount failed")
    try:
        ran = no_crash(command.world.run(command.words, here))
        if ran.status != 1 or not ran.said.startswith("error:"):
            raise Failure("unclear", f"exit status {ran.status}: {ran.said}")
        return "exit 1"
    finally:
        _umount(here)


CAMPAIGN = Campaign("limits", _cases, 12)
