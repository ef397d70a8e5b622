"""Several processes that make one tiny run; also the program that each of them is.

python tests/ranks_run.py train PREPARED OUTPUT          every packing; runs that are stopped and resumed; a signal
python tests/ranks_run.py shard PREPARED MODELS OUTPUT CASE…    the same runs with a complete base and with one that is shared out
python tests/ranks_run.py shard-start PREPARED MODELS OUTPUT CASE     runs that stop behind their checkpoint of update 5
python tests/ranks_run.py shard-resume PREPARED MODELS OUTPUT CASE    each of them resumed on so many ranks
python tests/ranks_run.py stop SETTINGS OUTPUT          the command's run with early stopping, with either base; SETTINGS is JSON
python tests/ranks_run.py fail  raise|die|die-first|hang|first|gather    one process fails while the others wait in a sum
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
    from qlora_fast.train.joining import joined
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


def shard(prepared: Path, folder: Path, output: Path, *cases: str) -> None:
    from safetensors.torch import save_file

    from qlora_fast.data.dataset import open_prepared
    from qlora_fast.train.joining import joined
    from sharded_run import by_fsdp, evaluations_of_few, shard_run

    data = open_prepared(prepared)
    with joined() as me:
        if "llama-fp32" in cases:
            (output / f"fsdp-{me.rank}.json").write_text(json.dumps(by_fsdp(folder, "llama-fp32", me)))
        for case in cases:
            for kind in (None, "world", "node"):
                run = shard_run(data, folder, case, me, kind)
                stream, told = run.forward.stream, {}
                if stream is not None:
                    idle = run.forward.idle
                    told = {"idle": 0, "most": 0}

                    def counted(*, training: bool, idle: Any = idle, told: dict[str, int] = told) -> None:
                        told["idle"] += 1
                        idle(training=training)

                    run.forward.idle = counted
                    start = stream._start

                    def watched(index: int, start: Any = start, stream: Any = stream, told: Any = told) -> None:
                        start(index)
                        told["most"] = max(told["most"], stream.nbytes)

                    stream._start = watched
                run.run()
                name = f"{case}-{kind or 'whole'}-{me.rank}"
                save_file({"weights": run.adapter.weights}, output / f"{name}.safetensors")
                if stream is not None:
                    sizes = sorted(unit.nbytes for unit in stream.units)
                    told |= {"kept": stream.source.device_bytes, "all": sum(sizes), "two": sum(sizes[-2:])}
                    told["fetched"] = stream.fetched
                told["few"] = evaluations_of_few(run, me)
                (output / f"{name}.json").write_text(json.dumps({"log": run.progress.log_history, **told}))


def shard_start(prepared: Path, folder: Path, output: Path, case: str) -> None:
    """Runs that stop behind the checkpoint of update 5, with a complete base and with a shared one."""
    from qlora_fast.data.dataset import open_prepared
    from qlora_fast.train.joining import joined
    from sharded_run import shard_run

    with joined() as me:
        for kind in (None, "world"):
            where = output / f"{me.world}-{kind or 'off'}"
            with suppress(Stopped):
                shard_run(
                    open_prepared(prepared), folder, case, me, kind, where, save_every=5, on_update=stop_at_7
                ).run()


def shard_resume(prepared: Path, folder: Path, output: Path, case: str) -> None:
    """Each of those runs resumed on so many ranks, with a complete base and with a shared one."""
    import shutil

    from safetensors.torch import save_file

    from qlora_fast.data.dataset import open_prepared
    from qlora_fast.train.joining import joined
    from sharded_run import shard_run

    with joined() as me:
        for start in sorted(output.glob("?-*")):
            for kind in (None, "world"):
                where = output / f"to-{me.world}-{kind or 'off'}-from-{start.name}"
                with me.in_turn():
                    if me.first:
                        shutil.copytree(start, where)
                run = shard_run(open_prepared(prepared), folder, case, me, kind, where, save_every=5)
                assert run.progress.update == 5
                run.run()
                save_file({"weights": run.adapter.weights}, where / f"{me.rank}.safetensors")


def stop(settings: Path, output: Path) -> None:
    """The same run with early stopping, with a complete base and with one that is shared out."""
    from qlora_fast.train.api import train as start
    from qlora_fast.train.joining import joined

    with joined():
        for kind in ("off", "world"):
            start(**json.loads(settings.read_text()), shard_base=kind, output_dir=str(output / kind))


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


def shared_nothing(ranks: Any) -> Any:
    """A stream of units whose bytes mean nothing."""
    import torch
    from torch import nn

    from qlora_fast.model.streamed.gather import Gathered
    from qlora_fast.model.streamed.stream import Stream
    from qlora_fast.model.streamed.unit import Unit

    source = Gathered(ranks.share("world"))
    parts = [nn.Linear(64, 64).requires_grad_(False) for _ in range(6)]
    units = [Unit(str(number), [part], multiple=ranks.world) for number, part in enumerate(parts)]
    for index, unit in enumerate(units):
        source.keep(index, unit.flat)
        unit.free()
    return Stream(units, range(6), source, torch.device("cpu"))


def die_in_a_gather(stream: Any) -> None:
    """The others have begun the gather of unit 3, and wait for the part of this rank."""
    fill = stream.source.fill
    stream.source.fill = lambda index, flat: os.kill(os.getpid(), signal.SIGKILL) if index == 3 else fill(index, flat)
    stream.idle_pass(training=True)


def fail(how: str) -> None:
    import torch

    from qlora_fast.cli.console import fail as show
    from qlora_fast.errors import DataError, PeerError, QloraFastError
    from qlora_fast.train import failing, joining

    failing.SILENT_S = 3.0

    who = 0 if how in ("first", "die-first") else 1
    try:
        with joining.joined() as me:
            if how == "first":
                with me.in_turn():
                    raise DataError("rank 0 found no data", hint="look for it")
            stream = shared_nothing(me) if how == "gather" else None
            for update in range(1000):
                if update == 3 and me.rank == who and stream is not None:
                    die_in_a_gather(stream)
                elif update == 3 and me.rank == who:
                    if how == "raise":
                        raise DataError("rank 1 has read a bad row", hint="fix it")
                    os.kill(os.getpid(), signal.SIGKILL if how.startswith("die") else signal.SIGSTOP)
                if stream is None:
                    me.all_reduce(torch.ones(8))
                else:
                    stream.idle_pass(training=True)
                time.sleep(0.01)
    except PeerError:
        sys.exit(1)
    except QloraFastError as error:
        show(error)
        sys.exit(1)


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    sharded = {"shard": shard, "shard-start": shard_start, "shard-resume": shard_resume}
    if what in sharded:
        sharded[what](*map(Path, words[:3]), *words[3:])
    elif what == "fail":
        fail(*words)
    else:
        {"train": train, "stop": stop}[what](*map(Path, words))
