"""``qlora-fast doctor``: is this machine fit, and which fast paths does it take?"""

from __future__ import annotations

from dataclasses import asdict

import click

from qlora_fast.cli import console

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
    from qlora_fast.doctor import examine

    groups = examine()
    findings = [finding for group in groups.values() for finding in group]
    broken = [finding for finding in findings if finding.state == "broken"]
    if as_json:
        console.out_json({"ok": not broken, **{name: [asdict(f) for f in group] for name, group in groups.items()}})
    else:
        width = max(len(finding.name) for finding in findings)
        for name, group in groups.items():
            console.out(name)
            for finding in group:
                console.out(f"  {_MARKS[finding.state]:<6}  {finding.name:<{width}}  {finding.found}")
                if finding.mend:
                    console.out(f"  {'':<6}  {'':<{width}}  → {finding.mend}")
        warnings = sum(finding.state == "warning" for finding in findings)
        console.out(f"\n{_verdict(len(broken), warnings)}")
    if broken:
        raise click.exceptions.Exit(1)


def _verdict(broken: int, warnings: int) -> str:
    if broken:
        return f"{broken} broken: training cannot work before that is mended"
    return f"fit for training, with {warnings} warning{'s' * (warnings != 1)}" if warnings else "fit for training"
