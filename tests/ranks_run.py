"""Several processes that make one tiny run; also the program that each of them is.

python tests/ranks_run.py train PREPARED OUTPUT          every packing; runs that are stopped and go on; a signal
python tests/ranks_run.py fail  raise|die|hang|first     one process fails while the others wait in a sum
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 300
PACKINGS = ("exact", "dense", "bucketed", "none")
SETTINGS: dict[str, Any] = {"updates": 10, "row": 64, "eval_every": 5, "logging_steps": 2}


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def launch(world: int, *words: str | Path, limit_s: float = LIMIT_S, expected: int = 0) -> list[Ended]:
    """Run this file in ``world`` processes that know of each other, as a launcher starts them.

    Args:
        expected: how many of them end by themselves, the first ones; all, if not given.
    """
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    env |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    command = [sys.executable, __file__, *map(str, words)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    distributed = [
        subprocess.Popen(command, env={**env, "RANK": str(r), "LOCAL_RANK": str(r)}, **pipes) for r in range(world)
    ]
    until = time.monotonic() + limit_s
    try:
        # A stopped process never ends: a process that is left over is judged by how the others end.
        outputs = [
            rank.communicate(timeout=max(until - time.monotonic(), 1)) for rank in distributed[: expected or world]
        ]
    finally:
        for rank in distributed:
            rank.kill()
    return [Ended(rank.returncode, *output) for rank, output in zip(distributed, outputs, strict=False)]


def train(prepared: Path, output: Path) -> None:
    from safetensors.torch import save_file

    from qlora_fast.atomic_io import sha256_of
    from qlora_fast.data.dataset import open_prepared
    from qlora_fast.errors import Interrupted
    from qlora_fast.train.distributed import joined
    from qlora_fast.train.on_every_machine import on_every_machine
    from tiny_run import tiny_run

    data = open_prepared(prepared)
    with joined() as me:
        for packing in PACKINGS:
            run = tiny_run(data, packing=packing, **SETTINGS, ranks=me)
            run.run()
            save_file({"weights": run.adapter.weights}, output / f"{packing}-{me.rank}.safetensors")
            (output / f"{packing}-{me.rank}.json").write_text(json.dumps(run.progress.log_history))
        # Two processes resume where one stopped, and one resumes where two stopped (in the test).
        from_one = tiny_run(data, output / "from-one", **SETTINGS, ranks=me)
        from_one.run()
        save_file({"weights": from_one.adapter.weights}, output / f"from-one-{me.rank}.safetensors")
        with suppress(Stopped):
            tiny_run(data, output / "by-two", save_every=5, on_update=stop_at_7, **SETTINGS, ranks=me).run()
        # A checkpoint that only rank 0 sees.
        lies = (output if me.first else output / "elsewhere") / "by-two" / "checkpoint-5"
        with on_every_machine(lies, me) as found:
            seen = {path.name: sha256_of(path) for path in sorted(found.iterdir())}
            (output / f"seen-{me.rank}.json").write_text(json.dumps({"name": found.name, "files": seen}))
        (output / f"waits-{me.rank}.json").write_text(json.dumps({**from_one.waits.about, "there": found.exists()}))
        # Two resume where two stopped, each with its own dropout.
        for name, on_update in (("whole", nothing), ("cut", stop_at_7), ("cut", nothing)):
            run = tiny_run(data, output / name, dropout=0.1, save_every=5, on_update=on_update, **SETTINGS, ranks=me)
            with suppress(Stopped):
                run.run()
            save_file({"weights": run.adapter.weights}, output / f"{name}-{me.rank}.safetensors")
            (output / f"{name}-{me.rank}.json").write_text(json.dumps(run.progress.log_history))
        # A signal to one process stops both behind the same update.
        with suppress(Interrupted):
            tiny_run(data, output / "signal", save_every=100, on_update=signal_to_rank_1, **SETTINGS, ranks=me).run()


class Stopped(BaseException):
    """Ends a run in the middle of an epoch, on all ranks alike; no error, and nothing catches it."""


def signal_to_rank_1(trainer: Any) -> None:
    if trainer.progress.update == 3 and trainer.ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)


def nothing(_: Any) -> None:
    """The run is left alone."""


def stop_at_7(trainer: Any) -> None:
    """Behind the checkpoint of update 5."""
    if trainer.progress.update == 7:
        raise Stopped


def fail(how: str) -> None:
    import torch

    from qlora_fast.cli.console import fail as show
    from qlora_fast.errors import DataError, PeerError, QloraFastError
    from qlora_fast.train import distributed

    distributed.SILENT_S = 3.0

    who = 0 if how == "first" else 1
    try:
        with distributed.joined() as me:
            if how == "first":
                with me.in_turn():
                    raise DataError("rank 0 found no data", hint="look for it")
            for update in range(1000):
                if update == 3 and me.rank == who:
                    if how == "raise":
                        raise DataError("rank 1 has read a bad row", hint="fix it")
                    os.kill(os.getpid(), signal.SIGKILL if how == "die" else signal.SIGSTOP)
                me.all_reduce(torch.ones(8))
                time.sleep(0.01)
    except PeerError:
        sys.exit(1)
    except QloraFastError as error:
        show(error)
        sys.exit(1)


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    train(*map(Path, words)) if what == "train" else fail(*words)
