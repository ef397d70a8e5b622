"""The preloaded library of faults (shim.c): built when it is first needed, and driven from the process that it is loaded in."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from paths import ROOT

KINDS = ("write", "fsync", "rename", "mkdir", "unlink", "create", "truncate", "chmod", "copy")
"""In the order of ``enum kind`` in shim.c."""
EVERY_KIND = (1 << len(KINDS)) - 1
_SOURCE = Path(__file__).with_name("shim.c")
_END = 1 << 60


class UnavailableError(Exception):
    """Faults cannot be injected here; the message says why."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is to go wrong in a command.

    Attributes:
        at: the call that is hit, from 1. error: the errno that it gets; 0: the process is killed instead.
        lasting: every later call is hit as well: the disk stays full. torn: half of the write is done before the kill.
        kind: only calls of this kind count; "" for all.
    """

    at: int
    error: int = 0
    lasting: bool = False
    torn: bool = False
    kind: str = ""


def library() -> Path:
    """The built library.

    Raises:
        UnavailableError: not on Linux, or there is no C compiler.
    """
    if not sys.platform.startswith("linux"):
        raise UnavailableError("faults are injected with LD_PRELOAD, which is Linux's")
    compiler = next((c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)), None)
    if compiler is None:
        raise UnavailableError("there is no C compiler for shim.c")
    name = hashlib.sha256(_SOURCE.read_bytes() + sysconfig.get_platform().encode()).hexdigest()[:12]
    made = ROOT / "target" / "reliability" / f"shim-{name}.so"
    if not made.is_file():
        made.parent.mkdir(parents=True, exist_ok=True)
        beside = made.with_suffix(f".{os.getpid()}")
        flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wno-unused-result", "-o", str(beside), str(_SOURCE), "-ldl"]
        subprocess.run([compiler, *flags], check=True)
        beside.replace(made)
    return made


def loaded() -> bool:
    """Whether this process runs with the library preloaded."""
    return hasattr(_here(), "fault_arm")


def reset() -> None:
    """Start counting again, for the next child."""
    _here().fault_reset()


def arm(fault: Fault | None) -> None:
    """In the child: from now on calls count, and the fault happens."""
    if fault is None:
        _here().fault_arm(ctypes.c_long(-1), ctypes.c_long(-1), 0, 0, ctypes.c_uint(EVERY_KIND))
        return
    kinds = EVERY_KIND if not fault.kind else 1 << KINDS.index(fault.kind)
    until = _END if fault.lasting else fault.at
    _here().fault_arm(ctypes.c_long(fault.at), ctypes.c_long(until), fault.error, int(fault.torn), ctypes.c_uint(kinds))


def counted() -> list[str]:
    """The kind of each call of the last child, in order."""
    return [KINDS[_here().fault_kind(ctypes.c_long(n))] for n in range(1, _here().fault_calls() + 1)]


@cache
def _here() -> Any:
    library = ctypes.CDLL(None)
    if hasattr(library, "fault_calls"):
        library.fault_calls.restype = ctypes.c_long
    return library
