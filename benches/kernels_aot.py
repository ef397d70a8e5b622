"""The Triton kernels compiled for GPUs that need not be here: registers, spills, shared memory, width of memory access.

    python -m benches.kernels_aot [--capability 80 89 90 100 120] [--shape 8B] [--write docs/kernels.md]

Each launch of ``model/kernels/registry.py`` at the shape of a real model, in bf16, is compiled with the very arguments that
it is launched with. Fails when one spills a register or touches memory that is contiguous in pieces below 16 bytes.
Needs Triton with its own ``cuobjdump`` and ``nvdisasm``; no GPU.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qlora_fast.model.kernels.launch import Launch, recorded
from qlora_fast.model.kernels.registry import KERNELS, SHAPES

CAPABILITIES = (80, 89, 90, 100, 120)
_MARKS = ("<!-- table: python -m benches.kernels_aot --write docs/kernels.md -->", "<!-- end of table -->")
_TYPES = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float64: "*fp64",
    torch.uint8: "*u8", torch.int32: "*i32", torch.int64: "*i64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a kernel takes of a GPU.

    Attributes:
        registers: of a thread. spilled: bytes of a thread that do not fit into registers. shared: bytes of an instance.
        wide, narrow: loads and stores of global memory in the machine code, of 16 bytes and of less.
    """

    kernel: str
    capability: int
    warps: int
    registers: int
    spilled: int
    shared: int
    wide: int
    narrow: int


def launches(shape: str) -> dict[str, Launch]:
    """One launch per kernel, its tensors without memory."""
    found = {}
    for kernel in KERNELS:
        with recorded() as one:
            kernel.run(**kernel.inputs(SHAPES[shape], torch.bfloat16, torch.device("meta")))
        found[kernel.name] = one[0]
    return found


def compiled(name: str, launch: Launch, capability: int) -> Compiled:
    """Compile ahead of time; nothing is run."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = launch.program.jit()
    kinds = {key: _kind(value) for key, value in launch.arguments.items()}
    kinds |= dict.fromkeys(launch.constants, "constexpr")
    divisible = [["tt.divisibility", 16]]
    # As Triton specializes a launch: addresses of torch's allocator and numbers that 16 divides.
    marks = {
        (function.arg_names.index(key),): divisible
        for key, value in launch.arguments.items()
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0)
    }
    source = ASTSource(function, kinds, dict(launch.constants), marks)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    resources, code = _disassembled(made.asm["cubin"])
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", resources)
    assert usage is not None, resources
    spills = Counter(re.findall(r"\b(LDL|STL)\b", code))
    access = re.findall(r"\b(?:LDG|STG)\.E([.\w]*)", code)
    wide = sum(".128" in mods or ".256" in mods for mods in access)
    return Compiled(
        kernel=name,
        capability=capability,
        warps=int(launch.options["num_warps"]),
        registers=int(usage[1]),
        spilled=int(usage[2]) + int(usage[3]) + sum(spills.values()),
        shared=int(made.metadata.shared),
        wide=wide,
        narrow=len(access) - wide,
    )


def table(rows: Iterable[Compiled]) -> str:
    """Markdown: a line per kernel, a column per compute capability."""
    rows = list(rows)
    capabilities = sorted({row.capability for row in rows})
    lines = [
        "| kernel | warps | "
        + " | ".join(f"sm_{c}" for c in capabilities)
        + " | accesses of 16 bytes / fewer | what is narrower |",
        "|---|---|" + "---|" * len(capabilities) + "---|---|",
    ]
    reasons = {kernel.name: kernel.narrow or "nothing" for kernel in KERNELS}
    for name in dict.fromkeys(row.kernel for row in rows):
        own = sorted((row for row in rows if row.kernel == name), key=lambda row: row.capability)
        cells = [f"{row.registers} / {row.shared}" for row in own]
        accesses = " · ".join(dict.fromkeys(f"{row.wide} / {row.narrow}" for row in own))
        lines.append(f"| {name} | {own[0].warps} | {' | '.join(cells)} | {accesses} | {reasons[name]} |")
    return "\n".join(lines)


def problems(rows: Iterable[Compiled]) -> list[str]:
    """What makes a kernel slow, one line each: spilled registers, and narrow accesses that its registry entry does not explain."""
    explained = {kernel.name: kernel.narrow for kernel in KERNELS}
    found = []
    for row in rows:
        where = f"{row.kernel} on sm_{row.capability}"
        if row.spilled:
            found.append(f"{where} spills registers")
        if not row.wide:
            found.append(f"{where} has no access of 16 bytes")
        if row.narrow and not explained[row.kernel]:
            found.append(f"{where} has {row.narrow} accesses below 16 bytes")
    return found


def written(page: str, content: str) -> str:
    """The page with its table replaced."""
    before, rest = page.split(_MARKS[0])
    return f"{before}{_MARKS[0]}\n{content}\n{_MARKS[1]}{rest.split(_MARKS[1])[1]}"


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return _TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _disassembled(cubin: bytes) -> tuple[str, str]:
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        commands = ([str(tools / "cuobjdump"), "-res-usage", file.name], [str(tools / "nvdisasm"), file.name])
        resources, code = (subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in commands)
    return resources, code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, nargs="+", default=list(CAPABILITIES))
    parser.add_argument("--shape", choices=SHAPES, default="8B")
    parser.add_argument("--write", type=Path, help="put the table into this page")
    words = parser.parse_args()
    rows = [compiled(name, one, c) for name, one in launches(words.shape).items() for c in words.capability]
    print(table(rows))
    if words.write:
        words.write.write_text(written(words.write.read_text(encoding="utf-8"), table(rows)), encoding="utf-8")
    if found := problems(rows):
        raise SystemExit("\n".join(found))


if __name__ == "__main__":
    main()
