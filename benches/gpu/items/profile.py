"""One micro-batch from inside: operations, device kernels and their time, and how long the GPU has nothing to do."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benches.gpu.report import Report, item
from benches.gpu.runner import ROOT
from benches.gpu.shapes import SMALL, TINY
from benches.gpu.step import MicroBatch, free_memory

EXPECTED = ROOT / "benches" / "gpu" / "expected.json"
"""Operations by part of a step, as the tests count them on the null GPU."""
_TOP = 12


def measure(report: Report, tiny: bool) -> None:
    """Launches, kernel time and idle share."""
    shape = TINY if tiny else SMALL
    for tokens in (256,) if tiny else (2048, 8192):
        with tempfile.TemporaryDirectory() as folder:
            batch = MicroBatch.make(Path(folder) / "data", shape, tokens)
        _one(report, batch, f"{shape.name}, {tokens} tokens")
        del batch
        free_memory()


def _one(report: Report, batch: MicroBatch, name: str) -> None:
    for _ in range(3):
        batch.whole()
    parts = {part: found.total for part, found in batch.counted().items()}
    wanted = json.loads(EXPECTED.read_text(encoding="utf-8")).get(name)
    torch.cuda.synchronize()
    started = time.perf_counter()
    rounds = 5
    for _ in range(rounds):
        batch.whole()
    launched = time.perf_counter() - started
    torch.cuda.synchronize()
    wall = (time.perf_counter() - started) / rounds * 1e3
    kernels, top = _kernels(batch)
    busy = sum(ms for ms, _ in kernels.values())
    report.row(
        **{"micro-batch": name}, **parts, expected=str(list(wanted.values())) if wanted else "not counted",
        **{
            "device kernels": sum(n for _, n in kernels.values()) or None,
            "kernel ms": round(busy, 2) or None,
            "wall ms": round(wall, 2),
            "host ms": round(launched / rounds * 1e3, 2),
            "idle share": round(max(0.0, 1 - busy / wall), 3) if busy else None,
        },
        wrong=wanted is not None and parts != wanted,
    )  # fmt: skip
    for kernel, (ms, count) in top:
        report.note(f"{name}: {ms:.2f} ms in {count} × `{kernel[:90]}`")


def _kernels(batch: MicroBatch) -> tuple[dict[str, tuple[float, int]], list[tuple[str, tuple[float, int]]]]:
    """(milliseconds, launches) by kernel name, all of them and the slowest; empty where the profiler sees no device."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        batch.whole()
        torch.cuda.synchronize()
    found: dict[str, tuple[float, int]] = {}
    events: Any = profiler.events() or []
    for event in events:
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.name.startswith(("Memcpy", "Memset")):
            ms, count = found.get(event.name, (0.0, 0))
            found[event.name] = ms + event.time_range.elapsed_us() / 1e3, count + 1
    return found, sorted(found.items(), key=lambda pair: -pair[1][0])[:_TOP]


if __name__ == "__main__":
    item(measure)
