"""``qlora-fast prep``: data files in, a prepared dataset and a report of every row out."""

from __future__ import annotations

from pathlib import Path

import click

from qlora_fast.cli import console, progress
from qlora_fast.cli.arguments import Place, complete_settings, sort_words


@click.command("prep", short_help="Prepare data files.")
@click.argument("words", type=Place(), nargs=-1, metavar="DATA... [KEY=VALUE...]", shell_complete=complete_settings)
@click.option("--config", "config_file", type=Place(), help="Take the settings from this config file.")
@click.option("--out", type=Place(), help="Folder to write (default: prepared/NAME-FINGERPRINT).")
@click.option(
    "--shard", metavar="I/N", help="Prepare only share I of N, for --merge to join; shares can run on any machine."
)
@click.option("--merge", is_flag=True, help="Join the results of all shares; no data is read.")
@click.option("--report", "keep", is_flag=True, help="Store report.json and length_histogram.png in the folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout.")
def command(
    words: tuple[str, ...],
    config_file: str | None,
    out: str | None,
    shard: str | None,
    merge: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """Parse, render, tokenize and truncate DATA, and report the outcome of every row.

    DATA is Alpaca, ShareGPT or OpenAI messages, as a JSON array, JSONL (plain, .gz or .zst) or Parquet; the format
    is detected. A name may be a file, a folder, a quoted glob, - for standard input, or an entry of dataset_info.json.
    Unless a model is named, the tokenizer and template are those of the embedded model.

    \b
    qlora-fast prep data.json
    qlora-fast prep a.json b.jsonl model_name_or_path=models/Qwen3-0.6B cutoff_len=1024
    qlora-fast prep dataset=identity,alpaca_en_demo dataset_dir=data deduplicate=exact
    zcat rows.jsonl.gz | qlora-fast prep -
    qlora-fast prep --config configs/base.yaml --json

    The same inputs are prepared only once; `train` finds what `prep` wrote. Rows that cannot be used are stored in
    rejected.jsonl, each with the reason: fix them there and prepare that file as well.

    The same command resumes an interrupted or killed preparation. Large data can be divided among any number of machines
    that see the same folder, by any scheduler; the result is bit for bit that of one machine:

    \b
    qlora-fast prep data/*.jsonl --out prepared/big --shard 1/8     and 2/8, 3/8, ... at the same time
    qlora-fast prep data/*.jsonl --out prepared/big --merge
    """
    from qlora_fast.cli.views import preparation
    from qlora_fast.config import load, overrides
    from qlora_fast.data import report
    from qlora_fast.data.plan import PlanOptions
    from qlora_fast.data.prepare import merge_shares, prepare_config, prepare_share

    files, settings = sort_words(words)
    if not files and config_file is None and "dataset" not in overrides(settings):
        raise click.UsageError("give a data file, or a config with --config")
    loaded = load(config_file, settings)
    for line in loaded.ignored:
        console.note(f"ignored: {line}")
    config = loaded.config
    if shard is not None:
        number, count = _share(shard, merge)
        with progress.shown() as tick:
            share = prepare_share(config, files or None, number=number, count=count, out=out, progress=tick)
        if as_json:
            console.out_json(share)
        else:
            console.rows_out([("share", shard), ("parts", f"{share['parts']:,} complete, in {share['path']}")])
            console.note("\nnext: the other shares, then the same command with --merge in place of --shard")
        return
    with progress.shown() as tick:
        prepared = (merge_shares if merge else prepare_config)(config, files or None, out=out, progress=tick)
    document = report.build(prepared.report, PlanOptions.of(config))
    document["model_name_or_path"] = config.model_name_or_path
    kept = report.keep(document, Path(document["path"]) / report.FOLDER) if keep else []
    if as_json:
        console.out_json(document)
        return
    named = config_file is not None or "model_name_or_path" in overrides(settings)
    model = config.model_name_or_path + ("" if named else " (embedded; name another with model_name_or_path=…)")
    preparation.show(document, model)
    if config.val_size:
        console.note("\nnote: the steps are those of all rows; `qlora-fast plan` leaves out what val_size holds out")
    for path in kept:
        console.note(f"written: {path}")
    if "-" not in files:  # standard input has been read
        from_config = () if config_file is None else ("--config", config_file)
        console.next_step("inspect", *files, *from_config, *settings)


def _share(text: str, merge: bool) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise click.BadParameter(f"`{text}` is not a share: 3/8 is the third of eight", param_hint="--shard")
    if merge:
        raise click.UsageError("give either --shard or --merge")
    return int(number), int(count)
