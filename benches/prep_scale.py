"""Whether preparing scales: wall time and peak memory of the whole process at 1x, 10x and a single array of 4 GiB.

    python benches/prep_scale.py data/alpaca_data.json models/Qwen3-0.6B
    python benches/prep_scale.py data/alpaca_data.json models/Qwen3-0.6B --gib 4

The larger inputs are made by repeating the records of the first (a JSON array), in a temporary folder that is removed
in the end. It ends with status 1 if a bound is broken: peak memory, and time in proportion to size.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PEAK_MIB = 300
SLACK = 1.25
"""How much more than ten times as long ten times the data may take."""


@dataclass(frozen=True)
class Run:
    """One preparation in a process of its own."""

    seconds: float
    peak_mib: float
    rows: int
    tokens: int


def repeat(array: Path, target: Path, size: int) -> None:
    """One JSON array of at least ``size`` bytes from the records of another."""
    body = array.read_bytes().strip()
    if body[:1] + body[-1:] != b"[]":
        raise SystemExit("the data must be a JSON array")
    records = body[1:-1].strip()
    with target.open("wb") as file:
        file.write(b"[" + records)
        while file.tell() < size:
            file.write(b",\n" + records)
        file.write(b"]\n")


def run(data: Path, model: str, out: Path, settings: list[str]) -> Run:
    command = [sys.executable, "-m", "qlora_fast", "prep", str(data), "--json", "--out", str(out)]
    command += [f"model_name_or_path={model}", *settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    report = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return Run(seconds, usage.ru_maxrss / 1024, report["rows_read"], report["tokens"])


def median(data: Path, model: str, folder: Path, settings: list[str], times: int) -> Run:
    runs = []
    for _ in range(times):
        out = folder / "out"
        runs.append(run(data, model, out, settings))
        shutil.rmtree(out)
    runs.sort(key=lambda r: r.seconds)
    return Run(runs[times // 2].seconds, max(r.peak_mib for r in runs), runs[0].rows, runs[0].tokens)


def show(name: str, size: int, ran: Run) -> None:
    rate = size / ran.seconds / 1e6
    print(
        f"| {name} | {size / 1e6:,.1f} MB | {ran.rows:,} | {ran.tokens:,} | {ran.seconds:.2f} s | {rate:.0f} MB/s "
        f"| {ran.peak_mib:.0f} MiB |",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a JSON array")
    parser.add_argument("model", help="a model folder with tokenizer.json, or its name")
    parser.add_argument("settings", nargs="*", help="key=value")
    parser.add_argument("--times", type=int, default=3, help="runs of which the median counts, at 1x and 10x")
    parser.add_argument("--gib", type=float, help="one run on an array of so many GiB as well")
    parser.add_argument("--scratch", type=Path, help="where the larger inputs are made")
    args = parser.parse_args()
    broken = []
    print("| input | size | rows | tokens | wall, whole process | | peak memory |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        folder = Path(name)
        size = args.data.stat().st_size
        one = median(args.data, args.model, folder, args.settings, args.times)
        show("1x", size, one)
        array = folder / "large.json"
        repeat(args.data, array, 10 * size)
        ten = median(array, args.model, folder, args.settings, args.times)
        show("10x", array.stat().st_size, ten)
        peaks = {"1x": one.peak_mib, "10x": ten.peak_mib}
        if ten.seconds > 10 * one.seconds * SLACK:
            broken.append(f"10x took {ten.seconds / one.seconds:.1f} times as long")
        if args.gib:
            repeat(args.data, array, int(args.gib * (1 << 30)))
            large = median(array, args.model, folder, args.settings, 1)
            show(f"{args.gib:g} GiB", array.stat().st_size, large)
            peaks[f"{args.gib:g} GiB"] = large.peak_mib
    broken += [f"{name} needed {peak:.0f} MiB" for name, peak in peaks.items() if peak > PEAK_MIB]
    for line in broken:
        print(f"broken: {line}", file=sys.stderr)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n(this script itself: {own:.0f} MiB; bound: {PEAK_MIB} MiB a process)")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
