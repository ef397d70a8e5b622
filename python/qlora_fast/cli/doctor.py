"""``qlora-fast doctor``: whether this machine can train, which fast paths are active, whether a folder is as it was written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qlora_fast.cli import console, progress
from qlora_fast.cli.arguments import Place

if TYPE_CHECKING:
    from qlora_fast.doctor import Finding, State

_NAMES = 15  # the longest name of a check; findings are printed one by one
_MARKS = {"ok": "ok", "note": "·", "warning": "!", "broken": "BROKEN"}


@click.command("doctor", short_help="Check machine and packages, or a folder.")
@click.argument("path", required=False, type=Place(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
def command(path: Path | None, as_json: bool) -> None:
    """Check Python, CPU, memory, disks, GPUs and packages, and run each fast path on a few numbers.

    The exit status is 1 if something that training needs does not work. `!` marks what costs speed or may fail, with a hint below.
    Include the output in bug reports.

    With PATH, read every byte of a folder that `prep`, `train` or `merge` wrote (prepared data, a run with its checkpoints, an
    adapter, a merged model), and name each file that is damaged, missing or was added later. The exit status is 1 if one is
    damaged or missing.

    \b
    qlora-fast doctor
    qlora-fast doctor --json > doctor.json
    qlora-fast doctor prepared/alpaca-0123456789
    qlora-fast doctor runs/base
    """
    from qlora_fast.doctor import examine, examine_artifact, findings

    if path is not None:
        with progress.shown() as tick:
            groups = examine_artifact(path, tick)
    elif as_json:
        groups = examine()
    if as_json:
        states = [finding.state for group in groups.values() for finding in group]
        found = {name: [_as_json(f) for f in group] for name, group in groups.items()}
        console.out_json({"ok": "broken" not in states, **found})
    elif path is not None:
        states = _show((name, finding) for name, group in groups.items() for finding in group)
        console.out(f"\n{states.count('broken')} damaged" if "broken" in states else "\nnothing is damaged")
    else:
        states = _show(findings())
        console.out(f"\n{_verdict(states.count('broken'), states.count('warning'))}")
    if "broken" in states:
        raise click.exceptions.Exit(1)


def _as_json(finding: Finding) -> dict[str, str | None]:
    """A finding under the keys that scripts know."""
    return {"name": finding.name, "state": finding.state, "found": finding.found, "mend": finding.hint}


def _show(found: Iterable[tuple[str, Finding]]) -> list[State]:
    """Print each finding when it is known; returns their states."""
    states: list[State] = []
    last = ""
    for group, finding in found:
        if group != last:
            console.out(group)
            last = group
        console.out(f"  {_MARKS[finding.state]:<6}  {finding.name:<{_NAMES}}  {finding.found}")
        if finding.hint:
            console.out(f"  {'':<6}  {'':<{_NAMES}}  → {finding.hint}")
        states.append(finding.state)
    return states


def _verdict(broken: int, warnings: int) -> str:
    if broken:
        return f"{broken} broken: fix that before training"
    return f"ready for training, with {warnings} warning{'s' * (warnings != 1)}" if warnings else "ready for training"
