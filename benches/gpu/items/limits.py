"""What the device can do at most: the ceilings that every other figure is to be read against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benches.gpu.report import Report, item


def milliseconds(run: Callable[[int], object], repeats: int = 10, warm_up: int = 3) -> float:
    """Median time of ``run(i)`` by device events; ``i`` counts up, so that inputs can take turns."""
    for i in range(warm_up):
        run(i)
    times = []
    for i in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(i)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def copy_gb_per_second(size: int = 1 << 30) -> float:
    """Device to device, bytes read and written; buffers take turns so that no cache holds them."""
    sources = [torch.randint(0, 255, (size,), dtype=torch.uint8, device="cuda") for _ in range(2)]
    target = torch.empty_like(sources[0])
    return 2 * size / milliseconds(lambda i: target.copy_(sources[i % 2])) / 1e6


def matmul_tflops(n: int, dtype: torch.dtype) -> float:
    """A square product of random data; zeros would run faster."""
    a, b = (torch.randn(n, n, device="cuda", dtype=dtype) for _ in range(2))
    return 2 * n**3 / milliseconds(lambda _: a @ b) / 1e9


def launches_per_second(count: int = 5000) -> float:
    """Host side: how fast the smallest operation can be launched, which bounds a step of many of them."""
    x = torch.zeros(1, device="cuda")
    for _ in range(100):
        x.add_(1)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        x.add_(1)
    torch.cuda.synchronize()
    return count / (time.perf_counter() - started)


def measure(report: Report, tiny: bool) -> None:
    """Device limits."""
    properties = torch.cuda.get_device_properties(0)
    capability = f"{properties.major}.{properties.minor}"
    report.machine(
        gpu=properties.name, capability=f"cc {capability}", memory=f"{properties.total_memory / 2**30:.0f} GiB",
        torch=f"torch {torch.__version__}", **_packages(),
    )  # fmt: skip
    report.row(limit="multiprocessors", value=properties.multi_processor_count)
    report.row(
        limit="copy, device to device, GB/s read + written", value=copy_gb_per_second(1 << 20 if tiny else 1 << 30)
    )
    n = 64 if tiny else 8192
    half = torch.bfloat16 if properties.major >= 8 else torch.float16
    report.row(limit=f"matmul {n}³, {str(half).removeprefix('torch.')}, TFLOP/s", value=matmul_tflops(n, half))
    report.row(
        limit="operations launched a second by one host thread", value=launches_per_second(100 if tiny else 5000)
    )
    host = torch.empty(1 << 20 if tiny else 1 << 28, dtype=torch.uint8).pin_memory()
    device = torch.empty_like(host, device="cuda")
    to_device = host.numel() / milliseconds(lambda _: device.copy_(host, non_blocking=True)) / 1e6
    report.row(limit="copy, pinned host to device, GB/s", value=to_device)


def _packages() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in ("triton", "transformers", "peft", "bitsandbytes"):
        try:
            found[name] = f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            found[name] = f"no {name}"
    return found


if __name__ == "__main__":
    item(measure)
