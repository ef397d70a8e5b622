"""The command line as a person or a script uses it: its exit status and what it printed."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from paths import ROOT
from qlora_fast import cli as program

DATA = ROOT / "tests" / "data"


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment() -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def arguments(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "qlora_fast", *map(str, words)]


def cli(*words: str | Path, cwd: Path | None = None, columns: int = 200) -> Ran:
    """Run ``qlora-fast`` with these words in this process: a new one imports torch for longer than most commands run.

    An exception that the command line does not turn into a message is the test's, with its traceback.
    """
    out, err, status = io.StringIO(), io.StringIO(), 0
    nothing = io.TextIOWrapper(io.BytesIO())
    with (
        mock.patch.dict(os.environ, {**environment(), "COLUMNS": str(columns)}),
        mock.patch.multiple(sys, argv=["qlora-fast", *map(str, words)], stdin=nothing),
        _folder(cwd),
        _log(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            program.main()
        except SystemExit as end:
            status = int(end.code or 0)
    return Ran(status, out.getvalue(), err.getvalue())


def cli_process(*words: str | Path, cwd: Path | None = None) -> Ran:
    """The same in a process of its own, where that is what the test is about."""
    done = subprocess.run(arguments(*words), capture_output=True, text=True, cwd=cwd, env=environment(), check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def _folder(folder: Path | None) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder or before)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _log() -> Iterator[None]:
    """The package's logger is as it was afterwards: a command prints its lines, tests look for them elsewhere."""
    log = logging.getLogger("qlora_fast")
    before = log.handlers[:], log.level, log.propagate
    try:
        yield
    finally:
        log.handlers[:], log.level, log.propagate = before
