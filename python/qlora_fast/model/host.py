"""Memory and processors of this machine, within the limits of its container (cgroups 1 and 2), and of its GPUs. No torch."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_ROOT = Path("/")
_UNLIMITED = 1 << 60
"""Cgroups 1 write a number near 2⁶³ where there is no limit."""


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Bytes of main memory: of the machine, of the container's limit (None without one), and what is available now."""

    total: int
    limit: int | None
    available: int


def memory() -> HostMemory:
    """What this process can use: the machine's available memory, or less where its container has a limit."""
    machine = psutil.virtual_memory()
    limits = list(_memory_limits(_ROOT))
    available = min([machine.available, *(max(0, limit - used) for limit, used in limits)])
    least = min((limit for limit, _ in limits), default=machine.total)
    return HostMemory(machine.total, least if least < machine.total else None, available)


def release_freed() -> None:
    """Give freed memory back to the system where the allocator is glibc's, which keeps blocks of up to 32 MB for later use."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def cores() -> float:
    """Processors that this process may use: its affinity, or the container's quota where that is less (0.5 is half of one)."""
    return min([float(usable_cores()), *_quotas(_ROOT)])


def usable_cores() -> int:
    """Processors that this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1


def gpu_free() -> int | None:
    """Bytes that are free on the fullest NVIDIA GPU, as the driver's own program says; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = [int(line) for line in done.stdout.split() if line.isdecimal()]
    return min(found) << 20 if found and done.returncode == 0 else None


def peak_resident() -> int:
    """The most bytes that this process had in memory at any time."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # Unix only

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) of each cgroup around this process. Cached file pages that the kernel can take back are not used."""
    for folder in _groups(root, "memory"):
        for limit_name, used_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _number(folder / limit_name), _number(folder / used_name)
            if limit is not None and used is not None and limit < _UNLIMITED:
                yield limit, max(0, used - _reclaimable(folder))


def _quotas(root: Path) -> Iterator[float]:
    """Processors that each cgroup around this process may use."""
    for folder in _groups(root, "cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        quota, period = quota or _text(folder / "cpu.cfs_quota_us"), period or _text(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield int(quota) / int(period)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup and of those around it, for one controller; each limits what is inside."""
    mounts = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0":
            mount = mounts
        elif controller in names.split(","):
            mount = mounts / controller
        else:
            continue
        inner = mount / path.strip("/")
        # Inside a container the path may be the host's, of which only the root is mounted.
        yield from (folder for folder in (inner, *inner.parents) if folder == mount or mount in folder.parents)


def _reclaimable(folder: Path) -> int:
    fields = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    found = fields.get("total_inactive_file", fields.get("inactive_file", "0"))
    return int(found) if found.isdecimal() else 0


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
