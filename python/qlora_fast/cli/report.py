"""``qlora-fast report``: the report of prepared data, shown again and stored as files."""

from __future__ import annotations

from pathlib import Path

import click

from qlora_fast.cli import console
from qlora_fast.cli.arguments import Place, sort_words


@click.command("report", short_help="Show and store the report of prepared data.")
@click.argument("words", type=Place(), nargs=-1, metavar="PREPARED [KEY=VALUE...]")
@click.option("--to", type=Place(), help="Folder for the files (default: PREPARED/report).")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout.")
def command(words: tuple[str, ...], to: str | None, as_json: bool) -> None:
    """Show the report of PREPARED, a folder that `prep` wrote, and store it: report.json and length_histogram.png.

    Settings change the figures that depend on them (batch size, packing budget, devices), not the data.

    \b
    qlora-fast report prepared/data-1a2b3c4d5e
    qlora-fast report prepared/data-1a2b3c4d5e --to docs per_device_train_batch_size=8 world_size=4
    """
    from qlora_fast.cli.views import preparation
    from qlora_fast.config import load
    from qlora_fast.data import report
    from qlora_fast.data.plan import PlanOptions
    from qlora_fast.runs.resolve import refuse_as_data

    folders, settings = sort_words(words)
    if len(folders) != 1:
        raise click.UsageError("give one prepared folder")
    folder = Path(folders[0])
    refuse_as_data(folder)
    prepared = report.of_folder(folder)
    config = load(None, [f"cutoff_len={prepared['cutoff_len']}", *settings]).config
    document = report.build(prepared, PlanOptions.of(config))
    kept = report.keep(document, Path(to) if to else folder / report.FOLDER)
    if as_json:
        console.out_json(document)
    else:
        preparation.show(document)
    for path in kept:
        console.note(f"written: {path}")
