"""Builds the null GPU's library for the torch that is installed, and names the environment that preloads it.

    python tests/nullgpu/stubs.py [--cc 90] [--gib 80] [--devices 1] [--zeros] -- COMMAND …

What torch and bitsandbytes import from CUDA's libraries is read from their symbol tables, so no list depends on a version:
what stubs/*.c does not define is written as a function that returns success.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent / "stubs"
SOURCES = ("device.c", "runtime.c", "driver.c")
CAPABILITIES = (75, 80, 89, 90, 100, 120)
_OWN = re.compile(r"(cuda|cublas|cublasLt|cu)[A-Z]\w*$")
_PRODUCTS = re.compile(r"cublas\w*(gemm|gemv|dot|trsm|Matmul$)", re.IGNORECASE)
_CALLED = re.compile(r"\b(cu[A-Z]\w+)\s*\(")


class UnavailableError(Exception):
    """Why there is no null GPU here."""


@functools.cache
def library() -> Path:
    """The built library, from a cache that goes by the sources and by torch.

    Raises:
        UnavailableError: no compiler, or no torch with CUDA.
    """
    gcc, nm = shutil.which("gcc"), shutil.which("nm")
    if sys.platform != "linux" or gcc is None or nm is None:
        raise UnavailableError("the null GPU needs Linux, gcc and nm")
    torch = _package("torch")
    importers = sorted(torch.glob("lib/lib*cuda*.so")) + sorted(torch.glob("lib/libcaffe2_nvrtc.so"))
    if not (torch / "lib" / "libtorch_cuda.so").exists():
        raise UnavailableError("this torch is built without CUDA")
    headers = _headers()
    importers += sorted((_package("bitsandbytes") or Path()).glob(f"libbitsandbytes_cuda{headers[1]}*.so"))
    source = (
        b"".join((HERE / name).read_bytes() for name in (*SOURCES, "nvml.c", "nullgpu.h")) + Path(__file__).read_bytes()
    )
    key = hashlib.sha256(source + repr([(str(p), p.stat().st_size) for p in importers]).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "qlora-fast-tests" / f"nullgpu-{key}"
    built = folder / "libcuda.so.1"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _build(gcc, nm, headers[0], importers, built)
    return built


def environment(cc: int = 90, gib: int = 80, *, devices: int = 1, zeros: bool = False) -> dict[str, str]:
    """Variables under which a process sees the null GPU.

    Args:
        cc: its compute capability. gib: its memory. devices: how many of it there are, at most 8.
        zeros: give each tensor fresh zeroed memory, so that what kernels should have written reads as zero: a whole training
            run then has finite losses. It turns the caching allocator off, and with it the statistics of memory.
    """
    built = library()
    return {
        **os.environ,
        "LD_PRELOAD": str(built),
        "LD_LIBRARY_PATH": f"{built.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":"),
        "TRITON_LIBCUDA_PATH": str(built.parent),
        "NULLGPU_CC": str(cc),
        "NULLGPU_GIB": str(gib),
        "NULLGPU_DEVICES": str(devices),
        **({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if zeros else {}),
    }


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _headers() -> tuple[Path, str]:
    """CUDA's headers that torch's wheels bring along, and their version's first digits."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(p) for p in (spec.submodule_search_locations or ())] if spec is not None else []
    found = [p.parent for root in roots for p in sorted(root.glob("*/include/cuda_runtime_api.h"), reverse=True)]
    found = [p for p in found if (p / "cuda.h").exists()] or [
        p for p in [(_package("triton") or Path()) / "backends" / "nvidia" / "include"] if (p / "cuda.h").exists()
    ]
    if not found:
        raise UnavailableError("no cuda.h: it comes with torch's CUDA wheels")
    version = re.search(
        r"#define CUDA_VERSION (\d+)", (found[0] / "cuda.h").read_text(encoding="utf-8", errors="replace")
    )
    return found[0], version.group(1)[:2] if version else ""


def _symbols(nm: str, file: Path, kind: str) -> set[str]:
    listed = subprocess.run([nm, "-D", f"--{kind}-only", str(file)], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].split("@")[0] for line in listed.splitlines() if line}


def _triton() -> set[str]:
    """What Triton's launcher calls, which is only compiled, and linked to libcuda, when it is first used."""
    source = (_package("triton") or Path()) / "backends" / "nvidia" / "driver.c"
    if not source.exists():
        return set()
    names = set(_CALLED.findall(source.read_text(encoding="utf-8")))
    # The header renames some: cuCtxGetCurrent is itself, cuMemAlloc is cuMemAlloc_v2.
    return {f"{name}{ending}" for name in names for ending in ("", "_v2")}


def _build(gcc: str, nm: str, include: Path, importers: list[Path], built: Path) -> None:
    options = [
        gcc,
        "-shared",
        "-fPIC",
        "-O1",
        "-w",
        "-pthread",
        "-Wl,-soname,libcuda.so.1",
        f"-I{HERE}",
        f"-I{include}",
    ]
    # crt/host_defines.h comes with the compiler's wheel and with Triton, not with the runtime's.
    options += [f"-I{(_package('triton') or Path()) / 'backends' / 'nvidia' / 'include'}"]
    sources = [str(HERE / name) for name in SOURCES]
    with tempfile.TemporaryDirectory(dir=built.parent) as scratch:
        own = Path(scratch) / "own.so"
        _run([*options, "-o", str(own), *sources])
        wanted = {s for file in importers for s in _symbols(nm, file, "undefined") if _OWN.match(s)} | _triton()
        rest = Path(scratch) / "rest.c"
        defined = _symbols(nm, own, "defined")
        # A name that is here in its other version must not be shadowed by one that does nothing.
        missing = sorted(n for n in wanted - defined if not {n.removesuffix("_v2"), f"{n}_v2"} & defined)
        rest.write_text("\n".join(['#include "nullgpu.h"', *map(_trivial, missing)]))
        _run([gcc, "-shared", "-fPIC", "-w", "-o", str(built.parent / "libnvidia-ml.so.1"), str(HERE / "nvml.c")])
        whole = Path(scratch) / "whole.so"
        _run([*options, "-o", str(whole), *sources, str(rest)])
        whole.replace(built)


def _trivial(name: str) -> str:
    """A function that succeeds; matrix products count as such, and what creates something gives something."""
    if _PRODUCTS.match(name):
        return f"int {name}(void) {{ nullgpu_count(NULLGPU_PRODUCT); return 0; }}"
    if re.match(r"cublas(Lt)?Create", name):
        return f"int {name}(void **out) {{ *out = nullgpu_handle(); return 0; }}"
    return f"int {name}(void) {{ return 0; }}"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(f"the null GPU does not compile here: {done.stderr.strip()[:500]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cc", type=int, default=90, choices=CAPABILITIES)
    parser.add_argument("--gib", type=int, default=80)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--zeros", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    words = parser.parse_args()
    command = words.command[words.command[:1] == ["--"] :]
    os.execvpe(command[0], command, environment(words.cc, words.gib, devices=words.devices, zeros=words.zeros))


if __name__ == "__main__":
    main()
