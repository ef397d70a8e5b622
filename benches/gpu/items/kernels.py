"""Each Triton kernel of the package against fp64 and against the speed of a copy."""

from __future__ import annotations

from benches.gpu.product import KERNEL_CASES
from benches.gpu.report import Report, item


def measure(report: Report, tiny: bool) -> None:
    """Triton kernels."""
    if not KERNEL_CASES:
        report.note("none: this version has no kernels of its own")


if __name__ == "__main__":
    item(measure)
