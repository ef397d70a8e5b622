"""``qlora-fast`` many times from one process: torch is imported once, and each command is a fork of it.

A child is a process of its own in everything that a fault can touch: memory, descriptors, limits, signals. It ends like the
command line does: what :func:`qlora_fast.cli.main` lets through is a traceback.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from reliability import shim
from reliability.shim import Fault

TRACEBACK = 99
"""Exit status of a child whose exception was not caught."""
_POLL_S = 0.004


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended: ``status`` is negative where a signal ended it; ``calls`` are the kinds of calls that counted."""

    status: int
    out: str
    err: str
    seconds: float
    timed_out: bool
    calls: list[str]

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL and not self.timed_out

    @property
    def crashed(self) -> str:
        """Why this end is never acceptable; "" if it is one that the command line documents."""
        if self.timed_out:
            return "stopped responding"
        if self.status == TRACEBACK or "Traceback (most recent call last)" in self.err or "panicked at" in self.err:
            return "traceback"
        return "crash" if self.status < 0 else ""

    @property
    def said(self) -> str:
        """The line of the error, or the last one on stderr."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        if self.crashed == "traceback":
            return lines[-1] if lines else ""
        return next((line for line in lines if line.startswith(("error:", "Error:"))), lines[-1] if lines else "")


def warm_up(model: Path) -> None:
    """Import what the commands import, so that no child does it again. Nothing is computed: threads do not survive a fork."""
    import qlora_fast
    from qlora_fast.model.load import quiet_libraries

    for module in pkgutil.walk_packages(qlora_fast.__path__, "qlora_fast."):
        if (
            not module.name.startswith(("qlora_fast.model.kernels.", "qlora_fast.ray"))
            and "__main__" not in module.name
        ):
            importlib.import_module(module.name)
    quiet_libraries()
    os.register_at_fork(after_in_child=_renew_thread_pool)
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(model, trust_remote_code=False)
    for name in ("matplotlib.pyplot", "peft", "bitsandbytes"):
        try:
            importlib.import_module(name)
        except ImportError:
            continue


def _renew_thread_pool() -> None:
    """Let torch replace its pool while this child has one thread.

    torch does so at the first operation behind a fork, without a lock: of two threads whose first operation comes at the same time,
    as when transformers loads a model, one would find no pool ("Invalid thread pool!").
    """
    import torch

    torch.set_num_threads(torch.get_num_threads())


def run(
    words: Sequence[str | Path],
    cwd: Path,
    *,
    fault: Fault | None = None,
    before: Callable[[], object] | None = None,
    timeout: float = 60,
) -> Ran:
    """Run ``qlora-fast WORDS`` in a folder.

    Args:
        fault: what goes wrong in it. before: called in the child first, for limits. timeout: seconds.
    """
    cwd.mkdir(parents=True, exist_ok=True)
    # Pipes, not files: a limit on the size of files must not hold for what is said.
    pipes = [os.pipe() for _ in range(2)]
    for read, _ in pipes:
        os.set_blocking(read, False)
    counting = shim.loaded()
    if counting:
        shim.reset()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(words, cwd, [write for _, write in pipes], fault, before, counting)
    for _, write in pipes:
        os.close(write)
    heard = [bytearray() for _ in pipes]
    status, timed_out = _wait(child, started + timeout, lambda: _hear([read for read, _ in pipes], heard))
    out, err = (text.decode("utf-8", errors="replace") for text in heard)
    for read, _ in pipes:
        os.close(read)
    return Ran(status, out, err, time.monotonic() - started, timed_out, shim.counted() if counting else [])


def _hear(pipes: Sequence[int], heard: Sequence[bytearray]) -> None:
    """Read what a child has written to its pipes."""
    for read, text in zip(pipes, heard, strict=True):
        with suppress(BlockingIOError):
            while block := os.read(read, 1 << 16):
                text += block


def _child(
    words: Sequence[str | Path],
    cwd: Path,
    streams: Sequence[int],
    fault: Fault | None,
    before: Callable[[], object] | None,
    counting: bool,
) -> None:
    status = TRACEBACK
    try:
        os.setsid()
        os.chdir(cwd)
        for number, stream in enumerate((os.open(os.devnull, os.O_RDONLY), *streams)):
            os.dup2(stream, number)
            os.close(stream)
        sys.argv = ["qlora-fast", *map(str, words)]
        from qlora_fast.cli import main

        if before is not None:
            before()
        if counting:
            shim.arm(fault)
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        status = TRACEBACK
        traceback.print_exc()
    finally:
        try:
            sys.stderr.flush()
        finally:
            os._exit(status)


def _wait(child: int, end: float, meanwhile: Callable[[], None]) -> tuple[int, bool]:
    """Exit status, and whether the time was up."""
    timed_out = False
    while True:
        meanwhile()
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            meanwhile()
            return os.waitstatus_to_exitcode(status), timed_out
        if time.monotonic() > end and not timed_out:
            os.killpg(child, signal.SIGKILL)
            timed_out = True
        time.sleep(_POLL_S)
