"""``qlora-fast prep``: data files in, a prepared dataset and an honest report out."""

from __future__ import annotations

from pathlib import Path

import click

from qlora_fast.cli import console
from qlora_fast.cli.words import complete_settings, sort_words


@click.command("prep", short_help="Prepare data files.")
@click.argument("words", nargs=-1, metavar="DATA... [KEY=VALUE...]", shell_complete=complete_settings)
@click.option("--config", "config_file", type=click.Path(), help="Take the settings from this config file.")
@click.option("--out", type=click.Path(), help="Folder to write (default: prepared/NAME-FINGERPRINT).")
@click.option("--report", "keep", is_flag=True, help="Keep report.json and length_histogram.png in the folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout.")
def command(words: tuple[str, ...], config_file: str | None, out: str | None, keep: bool, as_json: bool) -> None:
    """Parse, render, tokenize and truncate DATA, and say what became of every row.

    DATA is Alpaca, ShareGPT or OpenAI messages, as a JSON array or JSONL; which one is found out. With nothing
    else given, the tokenizer and template are those of the embedded model.

    \b
    qlora-fast prep data.json
    qlora-fast prep a.json b.jsonl model_name_or_path=models/Qwen3-0.6B cutoff_len=1024
    qlora-fast prep --config configs/base.yaml --json

    The same inputs are prepared only once; `train` finds what `prep` made. Rows that cannot be used are kept in
    rejected.jsonl, each with the reason: mend them there and prepare that file as well.
    """
    from qlora_fast import prep_report
    from qlora_fast.cli import prep_view
    from qlora_fast.config import load
    from qlora_fast.planning import PlanOptions
    from qlora_fast.preparation import prepare_config, tokenizer_of

    files, settings = sort_words(words)
    if not files and config_file is None:
        raise click.UsageError("give a data file, or a config with --config")
    loaded = load(config_file, settings)
    for line in loaded.ignored:
        console.note(f"ignored: {line}")
    config = loaded.config
    tokenizer = tokenizer_of(config)
    with console.progress() as tick:
        prepared = prepare_config(config, files or None, out=out, tokenizer=tokenizer, progress=tick)
    report = prep_report.build(prepared.report, PlanOptions.of(config))
    report["model_name_or_path"] = config.model_name_or_path
    kept = prep_report.keep(report, Path(report["path"]) / prep_report.FOLDER) if keep else []
    if as_json:
        console.out_json(report)
        return
    named = "model_name_or_path" in " ".join(settings) or config_file is not None
    model = config.model_name_or_path + ("" if named else " (embedded; name another with model_name_or_path=…)")
    prep_view.show(report, model)
    for path in kept:
        console.note(f"kept: {path}")
    console.note(f"\nnext: qlora-fast inspect {' '.join(files) or f'--config {config_file}'}")
