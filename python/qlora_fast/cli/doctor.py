"""``qlora-fast doctor``: whether this machine can train, and which fast paths are active."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from qlora_fast.cli import console

if TYPE_CHECKING:
    from qlora_fast.doctor import Finding, State

_NAMES = 15  # the longest name of a check; findings are printed one by one
_MARKS = {"ok": "ok", "note": "·", "warning": "!", "broken": "BROKEN"}


@click.command("doctor", short_help="Check machine and packages.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
def command(as_json: bool) -> None:
    """Check Python, CPU, memory, disks, GPUs and packages, and run each fast path on a few numbers.

    Exit status 1 if something that training needs does not work. `!` marks what costs speed or may fail, with a hint below.
    Include the output in bug reports.

    \b
    qlora-fast doctor
    qlora-fast doctor --json > doctor.json
    """
    from qlora_fast.doctor import examine, findings

    if as_json:
        groups = examine()
        states = [finding.state for group in groups.values() for finding in group]
        found = {name: [asdict(f) for f in group] for name, group in groups.items()}
        console.out_json({"ok": "broken" not in states, **found})
    else:
        states = _show(findings())
        console.out(f"\n{_verdict(states.count('broken'), states.count('warning'))}")
    if "broken" in states:
        raise click.exceptions.Exit(1)


def _show(found: Iterable[tuple[str, Finding]]) -> list[State]:
    """Print each finding when it is known; returns their states."""
    states: list[State] = []
    last = ""
    for group, finding in found:
        if group != last:
            console.out(group)
            last = group
        console.out(f"  {_MARKS[finding.state]:<6}  {finding.name:<{_NAMES}}  {finding.found}")
        if finding.mend:
            console.out(f"  {'':<6}  {'':<{_NAMES}}  → {finding.mend}")
        states.append(finding.state)
    return states


def _verdict(broken: int, warnings: int) -> str:
    if broken:
        return f"{broken} broken: fix that before training"
    return f"ready for training, with {warnings} warning{'s' * (warnings != 1)}" if warnings else "ready for training"
