"""``make gpu``: everything that only an NVIDIA GPU can show, in less than ten minutes.

    python -m benches.gpu [--out target/gpu] [--only limits tests …] [--seconds 560] [--tiny] [--write]

Needs Python ≥ 3.10, torch ≥ 2.10, transformers ≥ 5, PEFT and a built python/qlora_fast/_core.abi3.so; no installation and no
network: weights are made on the GPU. bitsandbytes is used if it is there. Each item is a process with a time limit of its
own and prints JSON lines that are kept in OUT/results.jsonl as they come; OUT/table.md is complete at any moment.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benches.gpu.runner import ROOT, Record, Runner, StoppedError
from benches.gpu.schedule import ITEMS, TOTAL_SECONDS, chosen
from benches.gpu.table import failed, table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "target" / "gpu", help="folder of results, logs and the table"
    )
    parser.add_argument("--only", nargs="+", metavar="ITEM", help=", ".join(item.name for item in ITEMS))
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="for everything together")
    parser.add_argument("--tiny", action="store_true", help="shapes that show only that the program works")
    parser.add_argument("--write", action="store_true", help="append the table to BENCHMARKS.md")
    words = parser.parse_args()
    try:
        items = chosen(words.only)
    except ValueError as error:
        parser.error(str(error))
    runner = Runner(words.out.resolve(), words.seconds, ["--tiny"] if words.tiny else [])

    def keep(records: list[Record]) -> None:
        (runner.out / "table.md").write_text(table(records, items), encoding="utf-8")

    stopped = None
    try:
        runner.run(items, keep)
    except StoppedError as signal:
        stopped = signal
    keep(runner.records)
    whole = table(runner.records, items)
    if words.write and not words.tiny:
        with (ROOT / "BENCHMARKS.md").open("a", encoding="utf-8") as file:
            file.write("\n" + whole)
    print(whole + (f"\nstopped by {stopped}\n" if stopped else ""), flush=True)
    return 1 if stopped or failed(runner.records, items) else 0


if __name__ == "__main__":
    sys.exit(main())
