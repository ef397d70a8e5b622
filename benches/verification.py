"""What verification costs: prep, opening, the first update of train, and hashing the base model's weights.

    python -m benches.verification [--data data.json] [--rounds 7]

Without data, 26,000 rows are made from the demo rows. Every figure is of a process of its own, `verify: full` and `off` in
turns, medians; hashes are forgotten (FRESH) or remembered in the cache folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qlora_fast.hub.cache import HASHES, cache_dir

ROOT = Path(__file__).parent.parent
MODEL = "smollm2-135m-instruct"
OPEN = """
import sys, time
from qlora_fast.data.dataset import open_prepared
started = time.perf_counter()
open_prepared(sys.argv[1], verify=sys.argv[2])
first = time.perf_counter() - started
started = time.perf_counter()
open_prepared(sys.argv[1], verify=sys.argv[2])
print(first, time.perf_counter() - started)
"""
BASE = """
import sys, time
from qlora_fast.hub import resolve
from qlora_fast.train.identity import base_identity
started = time.perf_counter()
base_identity(resolve.model_path(sys.argv[1]))
print(time.perf_counter() - started)
"""


def rows(target: Path, count: int = 26_000) -> Path:
    demo = json.loads((ROOT / "tests" / "data" / "demo" / "alpaca_en.json").read_text(encoding="utf-8"))
    made = [{**demo[i % len(demo)], "instruction": f"{i} {demo[i % len(demo)]['instruction']}"} for i in range(count)]
    target.write_text(json.dumps(made), encoding="utf-8")
    return target


def run(*words: str) -> tuple[float, float, str]:
    """(wall, CPU) seconds and stdout of a Python process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python"), "OMP_NUM_THREADS": "2"}
    before, started = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, check=False)
    wall, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise SystemExit(done.stderr)
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu, done.stdout


def show(name: str, full: list[float], off: list[float], unit: float = 1e3) -> None:
    a, b = statistics.median(full) * unit, statistics.median(off) * unit
    print(f"{name:<44} full {a:10.2f}  off {b:10.2f} ms   {100 * (a / b - 1):+6.2f} %", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = given.data or rows(folder / "data.json")
        levels, common = (
            ("full", "off"),
            ["-m", "qlora_fast", "prep", str(data), f"model_name_or_path={MODEL}", "--json"],
        )
        time.sleep(2.1)  # a file that has just changed is hashed each time
        fresh: dict[str, list[tuple[float, float]]] = {level: [] for level in levels}
        again: dict[str, list[tuple[float, float]]] = {level: [] for level in levels}
        for _ in range(given.rounds):
            for level in levels:
                out = folder / f"out-{level}"
                shutil.rmtree(out, ignore_errors=True)
                words = [*common, f"verify={level}", "--out", str(out)]
                fresh[level].append(run(*words)[:2])
                again[level].append(run(*words)[:2])
        for what, taken in (("prep", fresh), ("prep, prepared before", again)):
            show(f"{what}, wall", [t[0] for t in taken["full"]], [t[0] for t in taken["off"]])
            show(f"{what}, CPU", [t[1] for t in taken["full"]], [t[1] for t in taken["off"]])
        time.sleep(2.1)
        out = str(folder / "out-full")
        opened = {
            level: [list(map(float, run("-c", OPEN, out, level)[2].split())) for _ in range(given.rounds)]
            for level in levels
        }
        show("open, first in a process, remembered", [o[0] for o in opened["full"]], [o[0] for o in opened["off"]])
        show("open, again in the process", [o[1] for o in opened["full"]], [o[1] for o in opened["off"]])
        train: dict[str, list[float]] = {level: [] for level in levels}
        for number in range(max(3, given.rounds // 2)):
            for level in levels:
                words = ["-m", "qlora_fast", "train", str(ROOT / "configs" / "base.yaml"), f"dataset={data}", "max_steps=1",
                         f"verify={level}", f"output_dir={folder / f'run-{level}-{number}'}", f"prepared_dir={folder / 'prepared'}",
                         "per_device_train_batch_size=1", "gradient_accumulation_steps=1", "cutoff_len=64", "val_size=0",
                         "eval_strategy=no", "plot_loss=false"]  # fmt: skip
                train[level].append(run(*words)[0])
        show("train to the end of its first update", train["full"], train["off"])
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        run("-c", BASE, MODEL)  # converts the model
        time.sleep(2.1)
        hashes = cache_dir() / HASHES
        first, second = [], []
        for _ in range(given.rounds):
            shutil.rmtree(hashes, ignore_errors=True)
            first.append(float(run("-c", BASE, MODEL)[2]))
            second.append(float(run("-c", BASE, MODEL)[2]))
        print(f"hashing the base's weights (269 MB): first {statistics.median(first) * 1e3:.0f} ms, remembered "
              f"{statistics.median(second) * 1e3:.2f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
