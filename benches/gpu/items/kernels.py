"""Each Triton kernel of the package against its reference in fp64, and its speed against that of a copy."""

from __future__ import annotations

from typing import Any

import torch

from benches.gpu.items.limits import copy_gb_per_second, milliseconds
from benches.gpu.product import KERNEL_SHAPES, KERNELS, Kernel, KernelShape
from benches.gpu.report import Report, item
from benches.gpu.step import free_memory
from benches.gpu.widen import copied, widened

TINY = KernelShape(64, 16, 64, 128, 4, 2, 16, 512, 4096)
BOUNDS = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-4}
"""‖output − reference‖ / ‖reference‖ by the dtype of the output: bf16 keeps 8 bits, and operands are rounded to it."""
_POISON = 1 << 30
"""Bytes of NaN that are freed before a kernel runs, so that what it does not write is NaN and not an earlier result."""


def measure(report: Report, tiny: bool) -> None:
    """Triton kernels."""
    device, dtype = torch.device("cuda", 0), torch.bfloat16
    ceiling = copy_gb_per_second(1 << 20 if tiny else 1 << 30)
    for name, shape in ({"tiny": TINY} if tiny else KERNEL_SHAPES).items():
        for kernel in KERNELS:
            try:
                _one(report, kernel, name, shape, dtype, device, ceiling)
            except Exception as error:
                why = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:120]}"
                report.row(True, kernel=kernel.name, shape=name, error=why)
            free_memory()


def _one(
    report: Report,
    kernel: Kernel,
    name: str,
    shape: KernelShape,
    dtype: torch.dtype,
    device: torch.device,
    ceiling: float,
) -> None:
    torch.manual_seed(0)
    inputs = [kernel.inputs(shape, dtype, device) for _ in range(2)]
    worst, right = difference(kernel, inputs[0])
    ms = milliseconds(lambda i: kernel.run(**inputs[i % 2]))
    speed = kernel.moved(shape, dtype.itemsize) / ms / 1e6
    report.row(
        not right, kernel=kernel.name, shape=name, error=f"{worst:.1e}{'' if right else ': WRONG'}", ms=round(ms, 4),
        **{"GB/s": round(speed), "share of a copy": round(speed / ceiling, 3)},
    )  # fmt: skip


def difference(kernel: Kernel, inputs: dict[str, Any]) -> tuple[float, bool]:
    """(the largest relative difference of an output from the reference in fp64, whether all are within their bounds)."""
    wanted = kernel.reference(**widened(inputs))
    device = next(t for t in wanted).device
    poison = torch.full((_POISON // 4 if device.type == "cuda" else 1024,), torch.nan, device=device)
    del poison
    worst, right = 0.0, True
    for out, reference in zip(kernel.run(**copied(inputs)), wanted, strict=True):
        exact = reference.double()
        error = float((out.double() - exact).norm() / exact.norm().clamp_min(1e-30))
        # A difference that is NaN is never within a bound.
        right = right and error <= BOUNDS[out.dtype]
        worst = max(worst, error) if error == error else float("nan")
    return worst, right


if __name__ == "__main__":
    item(measure)
