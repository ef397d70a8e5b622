"""``qlora-fast export``: prepared data for other trainers."""

from __future__ import annotations

from dataclasses import asdict

import click

from qlora_fast.cli import console, progress
from qlora_fast.cli.arguments import Place


@click.command("export", short_help="Write prepared data for other trainers.")
@click.argument("prepared", metavar="PREPARED", type=Place())
@click.option(
    "--to",
    type=Place(),
    required=True,
    metavar="OUT",
    help="OUT.parquet, OUT.arrow, OUT.jsonl, or a folder of Parquet.",
)
@click.option("--packed", type=click.IntRange(min=1), help="Pack whole samples into rows of at most this many tokens.")
@click.option("--columns", metavar="A,B,…", help="Default: input_ids,labels,position_ids (packed: and seq_lengths).")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON on stdout.")
def command(prepared: str, to: str, packed: int | None, columns: str | None, as_json: bool) -> None:
    """Write PREPARED, a folder that `prep` wrote, in a form that TRL, Axolotl and `datasets` read.

    A row is a sample: its ids, its labels (-100 where a token has no loss) and its positions. With --packed a row holds
    several samples; positions start at 0 in each, and seq_lengths holds their lengths.

    \b
    qlora-fast export prepared/data-1a2b3c4d5e --to data.parquet                                    TRL, datasets
    qlora-fast export prepared/data-1a2b3c4d5e --to packed.parquet --packed 2048                    TRL, padding-free
    qlora-fast export prepared/data-1a2b3c4d5e --to ax --columns input_ids,attention_mask,labels    Axolotl

    docs/data.md shows how each of them reads it.
    """
    from qlora_fast.data.dataset import open_prepared
    from qlora_fast.data.export import export
    from qlora_fast.runs.resolve import refuse_as_data

    refuse_as_data(prepared)

    chosen = [c.strip() for c in columns.split(",") if c.strip()] if columns else None
    with progress.shown() as tick:
        dataset = open_prepared(prepared, progress=tick)
    with progress.shown("rows") as tick:
        done = export(dataset, to, columns=chosen, packed=packed, progress=tick)
    if as_json:
        console.out_json(asdict(done))
        return
    files = "" if done.files == 1 else f" in {done.files:,} files"
    console.out(f"{done.path}: {done.rows:,} rows of {done.samples:,} samples, {done.tokens:,} tokens{files}")
