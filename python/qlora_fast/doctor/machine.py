"""The machine: interpreter, processor, memory, disks, GPUs. Only the GPUs need torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from qlora_fast.doctor.finding import Finding
from qlora_fast.hub.cache import cache_dir
from qlora_fast.model import host

_GB = 1e9
_LITTLE_DISK, _NO_DISK = 10 * _GB, 0.2 * _GB
_LITTLE_MEMORY = 4 * _GB


def python() -> Iterable[Finding]:
    version = platform.python_version()
    old = sys.version_info < (3, 10)
    hint = "install Python 3.10 or newer" if old else None
    yield Finding("python", "broken" if old else "ok", f"{version} at {sys.executable}", hint)


def system() -> Iterable[Finding]:
    libc = " ".join(platform.libc_ver()).strip()
    yield Finding("system", "ok", f"{platform.system()} {platform.release()} {platform.machine()}, {libc}".rstrip(", "))


def cpu() -> Iterable[Finding]:
    name, flags = _cpu_info()
    usable, allowed = host.usable_cores(), host.cores()
    known = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "neon", "asimd") if f in flags]
    found = f"{name}, {usable} core{'s' * (usable != 1)} usable, {' '.join(known) or 'no vector extensions known'}"
    if allowed < usable:
        yield Finding(
            "cpu",
            "warning",
            f"{found}; the container may use {allowed:g} of them",
            f"set threads: {max(1, int(allowed))} in the config, and OMP_NUM_THREADS={max(1, int(allowed))}",
        )
    elif "avx2" not in flags and platform.machine() in ("x86_64", "AMD64"):
        yield Finding("cpu", "warning", found, "without AVX2 everything on the CPU is several times slower")
    else:
        yield Finding("cpu", "ok", found)


def memory() -> Iterable[Finding]:
    there = host.memory()
    found = f"{there.available / _GB:.1f} GB free of {there.total / _GB:.1f} GB"
    if there.limit is not None:
        found += f"; the container may use {there.limit / _GB:.1f} GB"
    little = there.available < _LITTLE_MEMORY
    hint = "a model must fit into it while it loads: take a smaller one, or end other programs" if little else None
    yield Finding("memory", "warning" if little else "ok", found, hint)


def disks() -> Iterable[Finding]:
    hub = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    places = {"outputs (here)": Path.cwd(), "cache": cache_dir(), "hub cache": hub}
    for name, wanted in places.items():
        there = _existing(wanted)
        free = shutil.disk_usage(there).free
        found = f"{wanted}: {free / _GB:.1f} GB free"
        if not os.access(there, os.W_OK):
            hint = "run in a folder that you may write to" if there == Path.cwd() else "set XDG_CACHE_HOME and HF_HOME"
            yield Finding(name, "broken", f"{found}, not writable", hint)
        elif free < _NO_DISK:
            yield Finding(name, "broken", found, "free some space, or put output_dir and the caches elsewhere")
        elif free < _LITTLE_DISK:
            yield Finding(name, "warning", found, "checkpoints may not fit: set save_total_limit")
        else:
            yield Finding(name, "ok", found)


def gpus() -> Iterable[Finding]:
    import torch

    seen = _nvidia_smi()
    if not torch.cuda.is_available():
        if seen:
            built = torch.version.cuda
            hint = (
                f"torch is built for CUDA {built}: update the driver, or install the torch for this driver"
                if built
                else "this torch is built without CUDA: install the CUDA build (https://pytorch.org)"
            )
            hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
            hint = "CUDA_VISIBLE_DEVICES is empty: unset it" if hidden else hint
            yield Finding("gpu", "warning", f"{'; '.join(seen)}: there, but torch cannot use it", hint)
        else:
            yield Finding("gpu", "note", "none: training runs on the CPU, slowly")
        return
    driver = seen[0].rsplit(", driver ", 1)[-1] if seen else "unknown"
    architectures = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found = (
            f"{name}, compute capability {major}.{minor}, {free / _GB:.1f} GB free of {total / _GB:.1f} GB, "
            f"driver {driver}, torch's CUDA {torch.version.cuda}"
        )
        if architectures and not _runs_on(architectures, major, minor):
            hint = f"this torch has kernels for {', '.join(architectures)} only: install another build"
            yield Finding(f"gpu {index}", "broken", found, hint)
        elif free < total / 2:
            yield Finding(
                f"gpu {index}", "warning", found, "another program holds much of its memory: nvidia-smi names it"
            )
        else:
            yield Finding(f"gpu {index}", "ok", found)
    if torch.cuda.device_count() > 1:
        count = torch.cuda.device_count()
        yield Finding(
            "gpus",
            "note",
            f"{count}; one is used unless: torchrun --standalone --nproc-per-node {count} -m qlora_fast train …",
        )


def _runs_on(architectures: list[str], major: int, minor: int) -> bool:
    """Whether a build has code for a GPU: binary for its own generation, or PTX of an older one."""
    for name in architectures:
        digits = "".join(c for c in name.split("_")[-1] if c.isdigit())
        if not digits:
            continue
        built = (int(digits[:-1]), int(digits[-1]))
        same_generation = name.startswith("sm_") and built[0] == major and built[1] <= minor
        if same_generation or (name.startswith("compute_") and built <= (major, minor)):
            return True
    return False


def _nvidia_smi() -> list[str]:
    """GPUs that the driver knows, torch or not."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.count(", ") == 2]
    return [f"{name}, {memory}, driver {driver}" for name, memory, driver in rows] if done.returncode == 0 else []


def _cpu_info() -> tuple[str, set[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), set()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    values = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set((values.get("flags") or values.get("Features") or "").split())
    return values.get("model name", platform.machine()), flags


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
