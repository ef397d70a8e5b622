"""Two ranks of one tiny run, one of which is killed at a random moment; then both start again. Prints a JSON line per case.

python tests/kill_run.py PREPARED FOLDER COUNT

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
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from qlora_fast.cli.console import fail as show
from qlora_fast.data.dataset import open_prepared
from qlora_fast.errors import PeerError, QloraFastError
from qlora_fast.train.distributed import joined
from ranks_run import free_port
from tiny_run import tiny_run

WORLD = 2
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


def rank(prepared: Path, folder: Path) -> None:
    """A run that resumes what is in ``folder``."""
    with joined() as me:
        (folder / f"joined-{me.rank}").touch()
        run = tiny_run(open_prepared(prepared), folder, on_update=lambda _: time.sleep(_UPDATE_S), ranks=me, **SETTINGS)
        run.run()
        save_file({"weights": run.adapter.weights}, folder / f"weights-{me.rank}.safetensors")


@contextmanager
def started(prepared: Path, folder: Path) -> Iterator[list[int]]:
    """Inside, the ranks run: their process ids. At the end none is left."""
    pids = _start(prepared, folder)
    try:
        yield pids
    finally:
        for pid in pids:
            with suppress(ChildProcessError):  # it was waited for
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)


def _start(prepared: Path, folder: Path) -> list[int]:
    """Fork the ranks; their process ids."""
    for name in (f"joined-{number}" for number in range(WORLD)):
        (folder / name).unlink(missing_ok=True)
    port, pids = free_port(), []
    for number in range(WORLD):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(WORLD), "RANK": str(number)}
        os.environ |= {"LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": str(WORLD)}
        log = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 2)
        os._exit(_ended(lambda: rank(prepared, folder)))
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


def all_joined(folder: Path) -> bool:
    """Whether all ranks have met."""
    return all((folder / f"joined-{number}").exists() for number in range(WORLD))


def has_checkpoint(folder: Path) -> bool:
    """Whether the run has a checkpoint."""
    return any(folder.glob("checkpoint-*"))


def until(folder: Path, holds: Callable[[Path], bool], limit_s: float = 60) -> None:
    """Wait for a state of a run.

    Raises:
        SystemExit: it was not reached in time; with what the ranks have said.
    """
    end = time.monotonic() + limit_s
    while not holds(folder):
        if time.monotonic() > end:
            raise SystemExit(f"{folder}: not {holds.__name__} after {limit_s:.0f} s\n{said_in(folder)}")
        time.sleep(0.005)


def said_in(folder: Path) -> str:
    """What the ranks have said."""
    return (folder / "said").read_text() if (folder / "said").exists() else ""


def case(number: int, prepared: Path, folder: Path, span_s: float, way_s: float) -> dict[str, Any]:
    """Kill one rank at a random moment after all have met, every second time after the first checkpoint; start again."""
    chance = random.Random(number)
    victim, share = chance.randrange(WORLD), chance.random()
    on_its_way = number % 2 == 1
    moment = share * (way_s if on_its_way else span_s)
    folder.mkdir()
    with started(prepared, folder) as pids:
        until(folder, all_joined)
        if on_its_way:
            until(folder, has_checkpoint)
        time.sleep(moment)
        os.kill(pids[victim], signal.SIGKILL)
        killed = time.monotonic()
        os.waitpid(pids[victim], 0)
        others = wait([pid for pid in pids if pid != pids[victim]], END_S)
        seconds = time.monotonic() - killed
    finished = (folder / f"weights-{victim}.safetensors").exists()
    said = said_in(folder)
    checkpoints = sorted(path.name for path in folder.glob("checkpoint-*"))
    with started(prepared, folder) as pids:
        again = list(wait(pids, 60).values())
    return {
        "victim": victim,
        "moment": round(moment, 3),
        "seconds": round(seconds, 2),
        "others": list(others.values()),
        "finished": finished,
        "said": said[-1500:],
        "checkpoints": checkpoints,
        "again": again,
        "said_again": said_in(folder)[len(said) :][-1500:] if again != [0] * WORLD else "",
    }


def main(prepared: Path, folder: Path, count: int) -> None:
    undisturbed = folder / "undisturbed"
    undisturbed.mkdir()
    with started(prepared, undisturbed) as pids:
        until(undisturbed, all_joined)
        begun = time.monotonic()
        until(undisturbed, has_checkpoint)
        saved = time.monotonic()
        statuses = wait(pids, 60)
        ended = time.monotonic()
    assert list(statuses.values()) == [0] * WORLD, said_in(undisturbed)
    wanted = [(undisturbed / f"weights-{number}.safetensors").read_bytes() for number in range(WORLD)]
    for number in range(count):
        place = folder / str(number)
        told = case(number, prepared, place, ended - begun, ended - saved)
        files = [place / f"weights-{number}.safetensors" for number in range(WORLD)]
        told["same"] = all(file.exists() for file in files) and [file.read_bytes() for file in files] == wanted
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
