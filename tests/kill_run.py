"""The ranks of one tiny run, one of which is killed at a random moment; then all start again. Prints a JSON line per case.

python tests/kill_run.py PREPARED MODELS FOLDER COUNT        COUNT cases of each kind in KINDS

The ranks are forked from this process, which has imported everything: a start takes a fraction of a second.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from qlora_fast.cli.console import fail as show
from qlora_fast.data.dataset import open_prepared
from qlora_fast.errors import PeerError, QloraFastError
from qlora_fast.train.joining import joined
from ranks_run import free_port
from reliability.command import warm_up
from sharded_run import shard_run

END_S = 10.0
"""Within which all others have to end."""
SETTINGS: dict[str, Any] = {
    "updates": 12,
    "row": 64,
    "save_every": 2,
    "logging_steps": 2,
    "eval_every": 4,
    "dropout": 0.1,
}
_UPDATE_S = 0.05
"""A rank waits so long after each update: the moments are spread over more than the loading."""


@dataclass(frozen=True)
class Kind:
    """How many ranks there are, what their base is (see :func:`sharded_run.base_of`), and whether it is shared out."""

    world: int
    base: str
    shard: str | None

    @property
    def name(self) -> str:
        return f"{self.world} ranks, {self.base}, shard_base {self.shard or 'off'}"


KINDS = (
    Kind(2, "qwen3-nf4", None),
    Kind(2, "qwen3-nf4", "world"),
    Kind(4, "llama-fp32", None),
    Kind(4, "llama-fp32", "world"),
)
"""Two with and two without a shared base end with the same weights."""


@dataclass(frozen=True)
class Inputs:
    """What the ranks of all cases read."""

    prepared: Path
    models: Path


def rank(given: Inputs, kind: Kind, folder: Path) -> None:
    """A run that resumes what is in ``folder``."""
    with joined() as me:
        (folder / f"joined-{me.rank}").touch()
        run = shard_run(
            open_prepared(given.prepared), given.models, kind.base, me, kind.shard, folder,
            on_update=lambda _: time.sleep(_UPDATE_S), **SETTINGS,
        )  # fmt: skip
        run.run()
        save_file({"weights": run.adapter.weights}, folder / f"weights-{me.rank}.safetensors")


@contextmanager
def started(given: Inputs, kind: Kind, folder: Path) -> Iterator[list[int]]:
    """Inside, the ranks run: their process ids. At the end none is left."""
    pids = _start(given, kind, folder)
    try:
        yield pids
    finally:
        for pid in pids:
            with suppress(ChildProcessError):  # it was waited for
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)


def _start(given: Inputs, kind: Kind, folder: Path) -> list[int]:
    """Fork the ranks; their process ids."""
    for name in (f"joined-{number}" for number in range(kind.world)):
        (folder / name).unlink(missing_ok=True)
    port, world, pids = free_port(), str(kind.world), []
    for number in range(kind.world):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": world, "RANK": str(number)}
        os.environ |= {"LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": world}
        log = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 2)
        os._exit(_ended(lambda: rank(given, kind, folder)))
    return pids


def _ended(run: Callable[[], None]) -> int:
    status = 1
    try:
        run()
        status = 0
    except PeerError:
        pass
    except QloraFastError as error:
        show(error)
    except BaseException as error:
        sys.stderr.write(f"Traceback: {error!r}\n")
    atexit._run_exitfuncs()
    sys.stderr.flush()
    return status


def wait(pids: list[int], limit_s: float) -> dict[int, int]:
    """The exit statuses of processes that end in time; the others are killed, and have none."""
    end, ended = time.monotonic() + limit_s, {}
    while len(ended) < len(pids) and time.monotonic() < end:
        for pid in set(pids) - ended.keys():
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                ended[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for pid in set(pids) - ended.keys():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return ended


def all_joined(folder: Path, kind: Kind) -> bool:
    """Whether all ranks have met."""
    return all((folder / f"joined-{number}").exists() for number in range(kind.world))


def has_checkpoint(folder: Path, kind: Kind) -> bool:
    """Whether the run has a checkpoint."""
    return any(folder.glob("checkpoint-*"))


def until(folder: Path, kind: Kind, holds: Callable[[Path, Kind], bool], limit_s: float = 60) -> None:
    """Wait for a state of a run.

    Raises:
        SystemExit: it was not reached in time; with what the ranks have said.
    """
    end = time.monotonic() + limit_s
    while not holds(folder, kind):
        if time.monotonic() > end:
            raise SystemExit(f"{folder}: not {holds.__name__} after {limit_s:.0f} s\n{said_in(folder)}")
        time.sleep(0.005)


def said_in(folder: Path) -> str:
    """What the ranks have said."""
    return (folder / "said").read_text() if (folder / "said").exists() else ""


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing ended.

    Attributes:
        span_s: from the meeting of the ranks to its end. way_s: from its first checkpoint on. weights: the file of each rank.
    """

    span_s: float
    way_s: float
    weights: list[bytes]


def undisturbed(given: Inputs, kind: Kind, folder: Path) -> Undisturbed:
    """Run to the end.

    Raises:
        SystemExit: a rank failed.
    """
    folder.mkdir(parents=True)
    with started(given, kind, folder) as pids:
        until(folder, kind, all_joined)
        begun = time.monotonic()
        until(folder, kind, has_checkpoint)
        saved = time.monotonic()
        statuses = wait(pids, 60)
        ended = time.monotonic()
    if list(statuses.values()) != [0] * kind.world:
        raise SystemExit(f"{kind.name}: {statuses}\n{said_in(folder)}")
    return Undisturbed(ended - begun, ended - saved, weights_in(folder, kind))


def weights_in(folder: Path, kind: Kind) -> list[bytes]:
    """The file of each rank that came to the end."""
    files = [folder / f"weights-{number}.safetensors" for number in range(kind.world)]
    return [file.read_bytes() for file in files if file.exists()]


def case(seed: int, given: Inputs, kind: Kind, folder: Path, reference: Undisturbed) -> dict[str, Any]:
    """Kill one rank at a random moment after all have met, every second time after the first checkpoint; start again."""
    chance = random.Random(seed)
    victim, share = chance.randrange(kind.world), chance.random()
    on_its_way = seed % 2 == 1
    moment = share * (reference.way_s if on_its_way else reference.span_s)
    folder.mkdir()
    with started(given, kind, folder) as pids:
        until(folder, kind, all_joined)
        if on_its_way:
            until(folder, kind, has_checkpoint)
        time.sleep(moment)
        os.kill(pids[victim], signal.SIGKILL)
        killed = time.monotonic()
        os.waitpid(pids[victim], 0)
        others = wait([pid for pid in pids if pid != pids[victim]], END_S)
        seconds = time.monotonic() - killed
    finished = (folder / f"weights-{victim}.safetensors").exists()
    said = said_in(folder)
    checkpoints = sorted(path.name for path in folder.glob("checkpoint-*"))
    with started(given, kind, folder) as pids:
        again = list(wait(pids, 60).values())
    return {
        "kind": kind.name,
        "world": kind.world,
        "seed": seed,
        "victim": victim,
        "moment": round(moment, 3),
        "seconds": round(seconds, 2),
        "others": list(others.values()),
        "finished": finished,
        "said": said,
        "checkpoints": checkpoints,
        "again": again,
        "said_again": said_in(folder)[len(said) :][-1500:] if again != [0] * kind.world else "",
        "same": weights_in(folder, kind) == reference.weights,
    }


def main(given: Inputs, folder: Path, count: int) -> None:
    warm_up(given.models / "llama")
    ends: dict[int, list[bytes]] = {}
    for number, kind in enumerate(KINDS):
        reference = undisturbed(given, kind, folder / f"{number}" / "undisturbed")
        if ends.setdefault(kind.world, reference.weights) != reference.weights:
            raise SystemExit(f"{kind.name}: undisturbed, it ends with other weights than without a shared base")
        for seed in range(number * count, (number + 1) * count):
            print(json.dumps(case(seed, given, kind, folder / f"{number}" / str(seed), reference)), flush=True)


if __name__ == "__main__":
    main(Inputs(Path(sys.argv[1]), Path(sys.argv[2])), Path(sys.argv[3]), int(sys.argv[4]))
