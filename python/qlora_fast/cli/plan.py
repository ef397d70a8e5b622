"""``qlora-fast plan``: what a run will do, before it does it. No torch, no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from qlora_fast.cli import console, progress
from qlora_fast.cli.arguments import Place, complete_settings

if TYPE_CHECKING:
    from qlora_fast.config import Config


@click.command("plan", short_help="What a run will do.")
@click.argument("config_file", metavar="CONFIG.yaml", type=Place())
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE...]", shell_complete=complete_settings)
@click.option("--rows", type=click.IntRange(min=1), help="Plan from a number of rows alone, without the data.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON on stdout.")
def command(config_file: str, settings: tuple[str, ...], rows: int | None, as_json: bool) -> None:
    """Show samples per optimizer step, number of steps, warm-up and learning rate of a run.

    If the data exists, it also shows rows, tokens and padding; with --rows only the arithmetic.

    \b
    qlora-fast plan configs/base.yaml
    qlora-fast plan configs/guide/baseline.yaml --rows 5986 world_size=8 gradient_accumulation_steps=4
    """
    from qlora_fast.config import load
    from qlora_fast.train import plan_report

    config = load(config_file, settings).config
    if rows is not None:
        report = plan_report.from_rows(config, rows)
    else:
        with progress.shown() as tick:
            report = plan_report.from_data(config, tick)
    if as_json:
        console.out_json(report)
    else:
        _show(report, config)


def _sum(report: dict[str, Any], config: Config) -> str:
    if config.max_steps is not None:
        return f"{report['updates']:,} (max_steps; {report['updates_per_epoch']:,} would be one epoch)"
    epochs = f"{report['epochs']:g} epoch{'s' * (report['epochs'] != 1)}"
    return f"{report['updates_per_epoch']:,} per epoch × {epochs} = {report['updates']:,}"


def _show(report: dict[str, Any], config: Config) -> None:
    from qlora_fast.data.selection import Share
    from qlora_fast.model.shapes import gb

    updates, warmup = report["updates"], report["warmup_updates"]
    batch = f"{config.per_device_train_batch_size} × {config.gradient_accumulation_steps} × {config.world_size}"
    unit = "full rows" if config.packing == "dense" else "samples"
    rates, shares = report["lr"], [Share(**share) for share in report.get("datasets", [])]
    shown = [k for k in rates if int(k) in {1, 10, 20, 30, warmup + 1, updates // 2, updates}]
    lines = [
        ("rows", f"{report['rows']:,} to train on, {report['eval_rows']:,} held out"),
        *(("", f"{share.name}: {share}") for share in shares if len(shares) > 1 or "," in str(share)),
        ("step", f"{report['samples_per_update']:,} {unit} (batch {batch})"),
        (
            "steps",
            f"{_sum(report, config)}, {warmup:,} of them warm-up",
        ),
        ("rate", ", ".join(f"{rates[k]:.3e} at {int(k):,}" for k in shown) + f"  ({config.lr_scheduler_type})"),
    ]
    lines.insert(0, ("model", config.model_name_or_path))
    if "preparation" in report:
        lines.insert(1, ("data", report["preparation"]["line"].removeprefix("data: ")))
    lines += [("note", text) for text in report["advice"]]
    if "tokens_per_update" in report:
        tokens = report["tokens_per_update"]
        lines.append(("tokens", f"{tokens['min']:,} – {tokens['max']:,} per step, {tokens['mean']:,.0f} on average"))
        if config.packed:
            budget = report["max_tokens_per_row"]
            lines.append(("", f"in rows of at most {budget['tokens']:,}: {budget['why']}"))
        for i, fill in enumerate(report["padding"]):
            chosen = "  ← this run" if fill["packing"] == config.packing else ""
            text = f"{fill['packing']:<9}{fill['real_share']:>6.1%} not padding, {fill['rows']:,} rows, {fill['updates']:,} steps per epoch{chosen}"
            lines.append(("batching" if i == 0 else "", text))
    if "torch_compile" in report:
        compiled = report["torch_compile"]
        lines.append(("compile", f"{'yes' if compiled['used'] else 'no'}: {compiled['why']}"))
    memory = report["memory"]
    if memory is not None:
        parts = ", ".join(
            f"{part} {gb(memory[part])}" for part in ("weights", "adapter", "optimizer", "activations", "logits")
        )
        lines.append(("memory", f"{gb(memory['total'])} GB on each GPU: {parts}"))
        lines.append(("", f"for rows of {memory['longest_row']:,} tokens; other ways: qlora-fast memory CONFIG.yaml"))
    lines += _fetched(report)
    console.rows_out(lines)


def _fetched(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines about a base that is fetched layer by layer, with the row lengths that hide it."""
    from qlora_fast.model.shapes import gb

    fetched = report["fetched"]
    if fetched is None:
        return []
    hidden = [f"{tokens:,} over {link}" for link, tokens in fetched["tokens_to_hide"].items()]
    place = (
        "with the base in main memory (offload_base)"
        if fetched["offload"]
        else f"with the base shared by {fetched['devices']} GPUs (shard_base)"
    )
    lines = [
        ("", f"{gb(fetched['total'])} GB {place}; docs/scale.md:"),
        ("", f"{gb(fetched['bytes_per_row'])} GB fetched per row, hidden in rows of {', '.join(hidden)}"),
    ]
    if fetched["offload"]:
        bound = [f"{seconds:.2f} s over {link}" for link, seconds in fetched["seconds_per_row"].items()]
        lines.append(("", f"a row takes at least {', '.join(bound)}"))
    longest = report["memory"]["longest_row"]
    short = [link for link, tokens in fetched["tokens_to_hide"].items() if tokens > longest]
    if short:
        needed = fetched["tokens_to_hide"][short[0]]
        lines.append(("", f"rows are too short for {', '.join(short)}: max_tokens_per_row={needed} and more"))
    return lines
