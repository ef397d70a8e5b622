"""docs/reliability.md, from the results: the scoreboard, how the cases were taken, and every case that does not hold."""

from __future__ import annotations

import os
import platform
import re
import time
from importlib.metadata import version
from pathlib import Path

from paths import ROOT
from reliability.record import Record, Tally
from reliability.table import ROWS, Row

_SHOWN = 8
_SCRATCH = re.compile(r"\S*/case/here/")
PAGE = ROOT / "docs" / "reliability.md"
_HEAD = """# Reliability

What happens when a command is killed, refused space, or given damaged or hostile files: counted, not promised. `make reliability`
runs every campaign on tiny models and writes this page; it can be stopped at any time and continues where it stopped. The command of
a row is `make reliability CAMPAIGN=` and its name. A sample of each runs in `make test-slow`. The campaigns are in
[`tests/reliability`](../tests/reliability); faults are injected by a preloaded library, without root.

Each case is one fault and the commands after it. "Holds" is strict: the same bytes as an undisturbed run, nothing left over, one
clear error, every problem reported. "Before" is the first measurement of this program, before any of it was fixed.

"""
_NOTES = """
Others were measured on the same tiny model: HF Trainer (transformers 5.23.0, PEFT 0.21.2, accelerate 1.15.0, torch 2.13.0) and
`datasets` 5.2.0. [M1] SIGKILL at update 13 of 24, resumed from a complete checkpoint. [M2] 18 ways to damage the newest checkpoint, an
older one intact. [M3] 12 kills within the 43 ms of a save: 8 runs cannot be resumed. [M4] files limited to 30 KiB during a save.
[M5] a second run in the folder of a finished one. [M7] 41 hostile JSON files. [M10] `<|im_end|>` in a user's text. [M11] 318 files.

What is not covered: power cuts that lose what was not flushed (the order of flushes is tested, the loss is not played), faults of a
GPU, network file systems, and calls that a library makes without the C library (safetensors renames its file so; the kill before
and the one behind that rename are covered).
"""


def write(results: Path) -> int:
    """Write the page; 1 where a case does not hold or a campaign is not complete."""
    tallies = {row.campaign: Record(results, row.campaign).read() for row in ROWS}
    PAGE.write_text(_page(tallies), encoding="utf-8")
    print(f"wrote {PAGE}")
    return int(any(tally.failures or not tally.complete for tally in tallies.values()))


def _page(tallies: dict[str, Tally]) -> str:
    lines = [_HEAD, "| campaign | what | goal | holds | before | others | minutes |", "|---|---|---|---|---|---|---|"]
    lines = [
        lines[0].rstrip("\n"),
        "",
        *lines[1:],
        *(_line(row, tallies[row.campaign]) for row in ROWS),
        "",
        _when(),
        _NOTES,
    ]
    lines += ["## How the cases were taken", "", "| campaign | |", "|---|---|"]
    lines += [f"| {row.campaign} | {_cell(tallies[row.campaign].ways())} |" for row in ROWS]
    lines += ["", "## What does not hold", ""]
    failed = [line for row in ROWS for line in _failures(row, tallies[row.campaign])]
    lines += failed or ["Every case that was run holds."]
    return "\n".join(lines) + "\n"


def _line(row: Row, tally: Tally) -> str:
    count = f"**{tally.held:,} of {len(tally.results):,}**" if tally.results else "not run"
    if tally.results and not tally.complete:
        count += f" ({tally.of - len(tally.results):,} not run)"
    cells = (f"`{row.campaign}`", row.what, row.goal, count, row.before, row.others, f"{tally.minutes:.1f}")
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _when() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "safetensors"))
    return (
        f"{time.strftime('%Y-%m-%d')}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {versions}. Minutes are those of the cases, on a machine that did other work as well."
    )


def _failures(row: Row, tally: Tally) -> list[str]:
    """A line for each of the first cases that do not hold."""
    failed = tally.failures
    lines = [
        f"- `{row.campaign}`, {_cell(r.case)}: **{r.failed}**: {_SCRATCH.sub('…/', _cell(r.note))[:200]}"
        for r in failed[:_SHOWN]
    ]
    return lines + ([f"- `{row.campaign}`: {len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else [])


def _cell(text: str) -> str:
    """Text that stays in a cell of a table, whatever it is."""
    plain = text if text.isprintable() else text.encode("ascii", "backslashreplace").decode().replace("\n", " ")
    return plain.replace("|", "\\|")
