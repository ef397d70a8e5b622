"""The command line as a person or a script uses it: another process, its exit status and what it printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paths import ROOT

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


def cli(*words: str | Path, cwd: Path | None = None) -> Ran:
    """Run ``qlora-fast`` with these words."""
    done = subprocess.run(arguments(*words), capture_output=True, text=True, cwd=cwd, env=environment(), check=False)
    return Ran(done.returncode, done.stdout, done.stderr)
