"""One bit flipped in what the program wrote: prepared data, checkpoints, ``best/``, ``last/``, adapters.

It is detected, or it is in a place that nothing reads. Where the source is there, what was damaged is made again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from qlora_fast.hub import manifest
from qlora_fast.runs import layout
from reliability.case import Campaign, Case, Failure, ended_well, no_crash, refused
from reliability.folders import difference, digest
from reliability.world import RESUME, World

PREPARED, CHECKPOINTS, RESUMED, BEST, ADAPTERS = 300, 3000, 60, 40, 60


def flip(folder: Path, draw: random.Random, keep: Callable[[Path], bool] = lambda _: True) -> Path:
    """Flip one random bit of the files below a folder; every byte is as likely. Gives the file."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size and keep(p)]
    at = draw.randrange(sum(p.stat().st_size for p in files))
    for path in files:
        size = path.stat().st_size
        if at < size:
            content = bytearray(path.read_bytes())
            content[at] ^= 1 << draw.randrange(8)
            path.write_bytes(content)
            return path
        at -= size
    raise AssertionError


def _cases(world: World) -> Iterator[Case]:
    kinds: dict[str, tuple[int, Callable[[World, random.Random], str]]] = {
        "prepared data": (PREPARED, _prepared),
        "checkpoint": (CHECKPOINTS, _checkpoint),
        "newest checkpoint, resumed": (RESUMED, _resumed),
        "best/, resumed": (BEST, _best),
        "adapter, merged": (ADAPTERS, _adapter),
    }
    for kind, (count, check) in kinds.items():
        for number in range(count):
            yield Case(f"{kind}, {number}", partial(_drawn, check, world, f"{kind} {number}"))


def _drawn(check: Callable[[World, random.Random], str], world: World, seed: str) -> str:
    return check(world, random.Random(seed))


def _prepared(world: World, draw: random.Random) -> str:
    """``doctor`` names the file; ``prep`` with the source makes it again, byte for byte, or refuses the folder."""
    here = world.copy(world.prepared)
    file = flip(here / "out", draw)
    seen = no_crash(world.run(["doctor", here / "out"], here))
    if seen.status == 0 and file.name != "rejected.jsonl":
        raise Failure("not reported", f"doctor, {file.name}")
    ran = no_crash(world.run(world.prep_words(world.rows), here))
    if ran.status == 1:
        return refused(ran)
    other = difference(digest(world.prepared / "out"), digest(here / "out"))
    if other and file.name != "rejected.jsonl":
        raise Failure("not reported", f"prep, {other}")
    return "not read" if file.name == "rejected.jsonl" else "made again"


def _checkpoint(world: World, draw: random.Random) -> str:
    """The verification itself, of every byte of a checkpoint."""
    folder = world.trained / "run" / layout.checkpoint(4)
    files = sorted(p for p in folder.iterdir() if p.is_file())
    before = {p: p.read_bytes() for p in files}
    file = flip(folder, draw)
    try:
        if manifest.damage(folder) is None:
            raise Failure("not reported", file.name)
    finally:
        file.write_bytes(before[file])
    return "detected"


def _resumed(world: World, draw: random.Random) -> str:
    """The run resumes from the checkpoint before it and ends as if nothing had happened."""
    here = world.copy(world.killed)
    flip(here / "run" / layout.checkpoint(6), draw)
    return _ends_the_same(world, here)


def _best(world: World, draw: random.Random) -> str:
    here = world.copy(world.killed)
    flip(here / "run" / layout.BEST, draw)
    return _ends_the_same(world, here)


def _ends_the_same(world: World, here: Path) -> str:
    ended_well(world.run(world.long_words(RESUME), here))
    found = {k: v for k, v in digest(here / "run").items() if ".damaged/" not in k and ".aside/" not in k}
    if other := difference(world.killed_whole, found):
        raise Failure("not reported", other)
    return "recovered"


def _adapter(world: World, draw: random.Random) -> str:
    """A finished adapter is refused when it is read."""
    here = world.copy(world.trained)
    place = draw.choice(("", layout.BEST, layout.LAST))
    listed = set(manifest.listed(here / "run" / place))
    file = flip(here / "run" / place, draw, lambda p: p.parent == here / "run" / place and p.name in listed)
    ran = no_crash(world.run(["merge", here / "run" / place, "-o", "out"], here))
    if ran.status == 0:
        raise Failure("not reported", f"{place or 'run'}/{file.name}")
    return refused(ran, "damaged")


CAMPAIGN = Campaign("bit-flips", _cases, 60)
