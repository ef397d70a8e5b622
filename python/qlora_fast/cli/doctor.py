"""``qlora-fast doctor``: is this machine fit, and which fast paths does it take?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from qlora_fast.cli import console

if TYPE_CHECKING:
    from qlora_fast.doctor import Finding, State

_NAMES = 15  # the longest name of a check; all of them are known only at the end
_MARKS = {"ok": "ok", "note": "·", "warning": "!", "broken": "BROKEN"}


@click.command("doctor", short_help="Check machine and packages.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
def command(as_json: bool) -> None:
    """Look at Python, CPU, memory, disks, GPUs and packages, and try each fast path on a few numbers.

    Exit status 1 when something is broken that training needs. `!` marks what costs speed or may go wrong, with its
    mend below. Put the output into a bug report.

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
    """Print each finding as it comes; returns their states."""
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
        return f"{broken} broken: training cannot work before that is mended"
    return f"fit for training, with {warnings} warning{'s' * (warnings != 1)}" if warnings else "fit for training"
