"""``qlora-fast compare``: runs side by side, and which of their differences are more than chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from qlora_fast.cli import console
from qlora_fast.cli.arguments import Place

if TYPE_CHECKING:
    from qlora_fast.runs.read import RunRecord
    from qlora_fast.runs.table import Report


@click.command("compare", short_help="Runs side by side.")
@click.argument("run_folders", type=Place(), metavar="RUN...", nargs=-1, required=True)
@click.option("--baseline", type=Place(), metavar="RUN", help="Compare with this run instead of the first.")
@click.option("--on", metavar="NAME", help="Use an evaluation that `evaluate RUN dataset=… --name NAME` made.")
@click.option("--plot", metavar="FILE.png", type=Place(dir_okay=False), help="Draw all loss curves into one picture.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the table as Markdown.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    run_folders: tuple[str, ...],
    baseline: str | None,
    on: str | None,
    plot: str | None,
    as_markdown: bool,
    as_json: bool,
) -> None:
    """Show the settings, losses and times of finished runs, and whether their evaluations differ by more than chance.

    Runs evaluated on the same samples are compared sample by sample: the interval in brackets holds the true difference
    in 95 of 100 such tables. Runs evaluated on different data are never compared; evaluate them on one file first:

    \b
    qlora-fast compare saves/exp1 saves/exp2 saves/exp4
    qlora-fast compare runs/* --baseline runs/base --plot losses.png
    for run in runs/a runs/b; do qlora-fast evaluate $run dataset=test.json --name test; done
    qlora-fast compare runs/a runs/b --on test
    """
    from qlora_fast.runs import table
    from qlora_fast.runs.read import read_runs

    folders = list(run_folders)
    if baseline is not None and Path(baseline).resolve() not in [Path(f).resolve() for f in folders]:
        folders.insert(0, baseline)
    runs = read_runs(folders, on)
    base = None
    if baseline is not None:
        base = next(run for run in runs if run.path.resolve() == Path(baseline).resolve())
    show(table.report(runs, base), runs, plot, as_markdown=as_markdown, as_json=as_json)


def show(made: Report, runs: list[RunRecord], plot: str | None, *, as_markdown: bool, as_json: bool) -> None:
    """Print a report in the form that was asked for, and draw its picture."""
    from qlora_fast.runs import table

    if plot is not None:
        from qlora_fast.plots import Curve, plot_overlay

        plot_overlay([Curve.of(run.name, run.log_history) for run in runs], Path(plot))
        made["plot"] = plot
    if as_json:
        console.out_json(made)
    elif as_markdown:
        console.out_document(table.markdown(made))
    else:
        console.table_out(table.cells(made))
        for note in made["notes"]:
            console.note(f"note: {note}")
        if plot is not None:
            console.note(f"picture: {plot}")
