"""Instructions per input byte of each stage, counted by callgrind: progress that is visible on noisy machines.

    python benches/instructions.py data/alpaca_data.json models/Qwen3-0.6B/tokenizer.json

A stage's own count is that of all stages up to it less that of the stage before; loading the tokenizer is counted by
itself. The floor is what cannot be saved: reading and parsing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
STAGES = {
    "read": "cut the file into records, check UTF-8",
    "parse": "JSON to conversation",
    "render": "conversation to segments",
    "encode": "segments to ids and spans",
    "write": "truncation, counts, hashes, the folder on disk",
}


def count(binary: Path, stage: str, args: argparse.Namespace, out: Path) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(binary)]
    words = [stage, args.data, args.tokenizer, args.template, str(out)]
    ran = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    found = re.search(r"Collected\s*:\s*(\d+)", ran.stderr)
    if ran.returncode or found is None:
        raise SystemExit(ran.stderr[-2000:])
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("tokenizer")
    parser.add_argument("--template", default="qwen3")
    parser.add_argument("--binary", type=Path, help="the built `stages`; default: build it")
    args = parser.parse_args()
    binary = args.binary
    if binary is None:
        build = ["cargo", "build", "--release", "-q", "-p", "qlora-fast-bench", "--bin", "stages"]
        subprocess.run(build, cwd=ROOT, check=True)
        binary = ROOT / "target" / "release" / "stages"
    size = Path(args.data).stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        # Once before: the first load may compile the tokenizer, which the later ones find done.
        subprocess.run([binary, "load", args.data, args.tokenizer, args.template], check=True)
        loading = count(binary, "load", args, Path(folder) / "load")
        totals = {stage: count(binary, stage, args, Path(folder) / stage) - loading for stage in STAGES}
    print(f"{Path(args.data).name}, {size:,} bytes, template {args.template}; loading the tokenizer: {loading:,}\n")
    print("| stage | instructions per byte | so far | |")
    print("|---|---|---|---|")
    before = 0
    for stage, what in STAGES.items():
        floor = " (the floor)" if stage == "parse" else ""
        print(f"| {stage} | {(totals[stage] - before) / size:.1f} | {totals[stage] / size:.1f}{floor} | {what} |")
        before = totals[stage]


if __name__ == "__main__":
    main()
