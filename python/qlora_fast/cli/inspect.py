"""``qlora-fast inspect``: samples and rows as the model sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from qlora_fast.cli import console, progress
from qlora_fast.cli.arguments import Place, complete_settings, sort_words
from qlora_fast.cli.views import row as row_view
from qlora_fast.cli.views import tokens as token_view

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from qlora_fast.config import Config
    from qlora_fast.data.dataset import PreparedDataset


@click.command("inspect", short_help="Show samples as the model sees them.")
@click.argument("words", type=Place(), nargs=-1, metavar="DATA... [KEY=VALUE...]", shell_complete=complete_settings)
@click.option("--config", "config_file", type=Place(), help="Take the settings from this config file.")
@click.option("--sample", "samples", type=int, multiple=True, help="Which sample, from 0; may be repeated.")
@click.option(
    "--row", "rows", metavar="[FILE:]N", multiple=True, help="Which row of the data, from 0; may be repeated."
)
@click.option("--update", type=int, help="Show the packed rows of this optimizer step of the first epoch, from 1.")
@click.option("--json", "as_json", is_flag=True, help="Print ids, labels and tokens as JSON.")
def command(
    words: tuple[str, ...],
    config_file: str | None,
    samples: tuple[int, ...],
    rows: tuple[str, ...],
    update: int | None,
    as_json: bool,
) -> None:
    """Show every token of a sample: supervised (green), context only (dim), or added by the template (yellow). With
    --update, show how samples are packed into the rows of an optimizer step.

    Samples are the rows that were kept. With --row, show a row of the file before it is prepared: the conversation that
    it is read as, the rendered text, what cutoff_len would truncate, or why it would be dropped. Rows are counted from 0, as in
    the report of `prep`; the file is read no further than to the row.

    \b
    qlora-fast inspect data.json
    qlora-fast inspect data.json --sample 7 --sample 12 template=qwen3_nothink
    qlora-fast inspect data.json --row 520
    qlora-fast inspect a.json b.jsonl --row b.jsonl:7 --row a.json:0
    qlora-fast inspect --config configs/base.yaml --update 1
    """
    from tokenizers import Tokenizer

    from qlora_fast.config import load, overrides
    from qlora_fast.data.prepare import prepare_config
    from qlora_fast.data.tokenizer import tokenizer_of

    files, settings = sort_words(words)
    if not files and config_file is None and "dataset" not in overrides(settings):
        raise click.UsageError("give a data file, or a config with --config")
    if rows and (samples or update is not None):
        raise click.UsageError("--row shows data that is not prepared: give it without --sample and --update")
    config = load(config_file, settings).config
    if rows:
        _show_rows(config, files, rows, as_json=as_json)
        return
    if update is not None:
        _show_update(config, files, update, as_json=as_json)
        return
    tokenizer = tokenizer_of(config)
    with progress.shown() as tick:
        dataset = prepare_config(config, files or None, tokenizer=tokenizer, progress=tick).open()
    decoder = Tokenizer.from_file(tokenizer.file)
    chosen = samples or (0,)
    outside = [s for s in chosen if not -len(dataset) <= s < len(dataset)]
    if outside:
        raise click.BadParameter(f"sample {outside[0]}: there are {len(dataset):,}, from 0", param_hint="--sample")
    if as_json:
        console.out_json([_as_json(dataset, decoder, s) for s in chosen])
    else:
        console.out_markup(token_view.LEGEND)
        for sample in chosen:
            _show_sample(dataset, decoder, sample)


def _as_json(dataset: PreparedDataset, decoder: Tokenizer, sample: int) -> dict[str, Any]:
    item = dataset[sample]
    return {
        "sample": sample,
        "origin": str(dataset.origin(sample)),
        "input_ids": item["input_ids"].tolist(),
        "labels": item["labels"].tolist(),
        "tokens": [decoder.id_to_token(i) for i in item["input_ids"].tolist()],
    }


def _show_sample(dataset: PreparedDataset, decoder: Tokenizer, sample: int) -> None:
    from rich.markup import escape

    ids = dataset.ids(sample).tolist()
    console.out_markup_line(
        f"\n[bold]sample {sample}[/]  {escape(str(dataset.origin(sample)))}  "
        f"{len(ids):,} tokens, {int(dataset.supervised[sample]):,} supervised"
    )
    console.out_markup(token_view.tokens(decoder, ids, dataset.spans(sample).tolist()))


def _show_rows(config: Config, files: list[str], places: tuple[str, ...], *, as_json: bool) -> None:
    from tokenizers import Tokenizer

    from qlora_fast.data.inspect import inspect_rows
    from qlora_fast.data.tokenizer import tokenizer_of

    tokenizer = tokenizer_of(config)
    with progress.shown() as tick:
        found = inspect_rows(config, files or None, places, tokenizer=tokenizer, progress=tick)
    decoder = Tokenizer.from_file(tokenizer.file)
    if as_json:
        console.out_json([row_view.as_json(row, decoder) for row in found])
        return
    console.out_markup(token_view.LEGEND)
    for row in found:
        row_view.show(row, decoder, config.cutoff_len)


def _show_update(config: Config, files: list[str], update: int, *, as_json: bool) -> None:
    """Show a step of the run that `train` would make of this config on this machine."""
    from qlora_fast.data import selection
    from qlora_fast.data.tokenizer import tokenizer_of
    from qlora_fast.train.plan_report import row_budget_of

    if files:
        config = replace(config, dataset=files)
    with progress.shown() as tick:
        data = selection.load(config, tokenizer_of(config), tick)
    epoch = data.in_rows_of(row_budget_of(config, data).tokens).plan_of_epoch(0)
    dataset, train_ids = data.train, data.train_ids
    updates = len(epoch.update_offsets) - 1
    if not 1 <= update <= updates:
        raise click.BadParameter(f"step {update}: the first epoch has {updates:,}", param_hint="--update")
    rows = range(epoch.update_offsets[update - 1], epoch.update_offsets[update])
    content = [train_ids[epoch.row(r)].tolist() for r in rows]
    if as_json:
        console.out_json({"update": update, "rows": content, "supervised": int(epoch.supervised[update - 1])})
        return
    console.out(
        f"step {update} of {updates:,}: {sum(map(len, content)):,} samples in {len(content)} row{'s' * (len(content) != 1)}, "
        f"{int(epoch.tokens[update - 1]):,} tokens, {int(epoch.supervised[update - 1]):,} supervised"
    )
    widest = max((int(dataset.lengths[row].sum()) for row in content if row), default=1)
    for number, row in enumerate(content):
        lengths = dataset.lengths[row].tolist() if row else []
        bar = "|".join("█" * max(1, round(60 * n / max(widest, 1))) for n in lengths)
        console.out(f"  row {number} (rank {number % config.world_size})  {sum(lengths):>6,} tokens  {bar}")
        console.out("      samples " + ", ".join(f"{s}:{n}" for s, n in zip(row, lengths, strict=True)))
