"""``qlora-fast prep``: data files in, a prepared dataset and an honest report out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from qlora_fast.cli import console
from qlora_fast.cli.words import complete_settings, sort_words


@click.command("prep", short_help="Prepare data files.")
@click.argument("words", nargs=-1, metavar="DATA... [KEY=VALUE...]", shell_complete=complete_settings)
@click.option("--config", "config_file", type=click.Path(), help="Take the settings from this config file.")
@click.option("--out", type=click.Path(), help="Folder to write (default: prepared/NAME-FINGERPRINT).")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout.")
def command(words: tuple[str, ...], config_file: str | None, out: str | None, as_json: bool) -> None:
    """Parse, render, tokenize and truncate DATA, and say what became of every row.

    DATA is Alpaca, ShareGPT or OpenAI messages, as a JSON array or JSONL; which one is found out. With nothing
    else given, the tokenizer and template are those of the embedded model.

    \b
    qlora-fast prep data.json
    qlora-fast prep a.json b.jsonl model_name_or_path=models/Qwen3-0.6B cutoff_len=1024
    qlora-fast prep --config configs/base.yaml --json

    The same inputs are prepared only once; `train` finds what `prep` made.
    """
    from qlora_fast.config import load
    from qlora_fast.planning import PlanOptions
    from qlora_fast.preparation import prepare_config, tokenizer_of
    from qlora_fast.stats import padding

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
    dataset = prepared.open()
    fills = padding(dataset.lengths, dataset.supervised, PlanOptions.of(config))
    report: dict[str, Any] = {
        **prepared.report,
        "engine": prepared.report["engine"],
        "model_name_or_path": config.model_name_or_path,
        "cutoff_len": config.cutoff_len,
        "padding": [asdict(f) for f in fills],
    }
    if as_json:
        console.out_json(report)
        return
    chosen = "model_name_or_path" in " ".join(settings) or config_file is not None
    _show(report, named=chosen)
    console.note(f"\nnext: qlora-fast inspect {' '.join(files) or f'--config {config_file}'}")


def _show(report: dict[str, Any], *, named: bool) -> None:
    """The report for a person."""
    model = report["model_name_or_path"] + ("" if named else " (embedded; name another with model_name_or_path=…)")
    lengths, seconds = report["lengths"], report["seconds"]
    dropped = sum(report["rows_dropped"].values())
    learned = report["supervised_tokens"] / max(report["tokens"], 1)
    lines = [
        ("prepared", f"{report['path']}" + ("  (found, unchanged)" if report.get("reused") else "")),
        ("model", model),
        ("template", f"{report['template']}, records: {report['format']}"),
        ("rows", f"{report['rows_read']:,} read = {report['rows_kept']:,} kept + {dropped:,} dropped"),
    ]
    examples = {e["reason"]: e for e in reversed(report["dropped_examples"])}
    for reason, count in report["rows_dropped"].items():
        where = examples.get(reason)
        first = f"  first: {where['file']}:{where['line']} (row {where['row']})" if where else ""
        lines.append(("", f"  {count:,} {reason}{first}"))
    lines += [("repaired", f"{count:,} {name}") for name, count in report["repairs"].items()]
    lines += [("ignored", f"key `{name}` in {count:,} rows") for name, count in report["ignored_keys"].items()]
    lines += [("note", f"{count:,} {name}") for name, count in report["notices"].items()]
    cut = f"{report['tokens_cut']:,} cut from {report['rows_truncated']:,} rows" if report["tokens_cut"] else "none cut"
    lines += [
        ("tokens", f"{report['tokens']:,} kept ({learned:.0%} learned), {cut}"),
        (
            "lengths",
            "  ".join(f"{name} {lengths[name]:,}" for name in ("p50", "p90", "p95", "p99", "max"))
            + f"  (cutoff_len {report['cutoff_len']:,})",
        ),
    ]
    for fill in report["padding"]:
        lines.append(
            (
                "batching" if fill["packing"] == "none" else "",
                f"{fill['packing']:<9}{fill['real_share']:>6.1%} real tokens, {fill['rows']:,} rows, {fill['updates']:,} updates an epoch",
            )
        )
    engine = report["engine"]
    name = engine["name"] + (f" ({engine['reason']})" if engine.get("reason") else "")
    lines.append(("time", f"{seconds['total']:.2f} s with {name}"))
    console.rows_out(lines)
