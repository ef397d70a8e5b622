"""``qlora-fast plan``: what a run will do, before it does it. No torch, no model."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from qlora_fast.cli import console
from qlora_fast.cli.arguments import complete_settings

if TYPE_CHECKING:
    from qlora_fast.config import Config
    from qlora_fast.data.dataset import PreparedDataset
    from qlora_fast.data.selection import Selection


@click.command("plan", short_help="What a run will do.")
@click.argument("config_file", metavar="CONFIG.yaml", type=click.Path())
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE...]", shell_complete=complete_settings)
@click.option("--rows", type=click.IntRange(min=1), help="Plan from a number of rows alone, without the data.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON on stdout.")
def command(config_file: str, settings: tuple[str, ...], rows: int | None, as_json: bool) -> None:
    """Show samples per update, number of updates, warm-up and learning rate of a run.

    With the data at hand it also shows rows, tokens and padding; with --rows only the arithmetic.

    \b
    qlora-fast plan configs/base.yaml
    qlora-fast plan configs/guide/baseline.yaml --rows 5986 world_size=8 gradient_accumulation_steps=4
    """
    from qlora_fast.config import load
    from qlora_fast.data.length_stats import padding
    from qlora_fast.data.plan import PlanOptions, epoch_plan, longest_row_tokens, split
    from qlora_fast.errors import ConfigError
    from qlora_fast.train.schedule import Schedule, interval, total_updates, updates_per_epoch

    config = load(config_file, settings).config
    options = PlanOptions.of(config)
    report: dict[str, Any] = {}
    shares: list[tuple[str, str]] = []
    if rows is not None:
        if config.packing == "dense":
            raise ConfigError("`packing: dense` makes as many updates as the lengths allow", hint="leave --rows out")
        train_ids, eval_ids = split(rows, 0.0 if config.eval_dataset else config.val_size, config.seed)
        samples, per_epoch = len(train_ids), updates_per_epoch(len(train_ids), options.samples_per_update)
    else:
        dataset, chosen, n_eval = _select(config)
        lengths, supervised = dataset.lengths[chosen.train_ids], dataset.supervised[chosen.train_ids]
        eval_ids = range(n_eval)  # type: ignore[assignment]
        first = epoch_plan(lengths, supervised, options)
        samples, per_epoch = len(lengths), len(first.supervised)
        report["tokens_per_update"] = {
            "min": int(first.tokens.min()), "mean": float(first.tokens.mean()), "max": int(first.tokens.max()),
        }  # fmt: skip
        report["supervised_tokens"] = int(first.supervised.sum())
        report["padding"] = [asdict(f) for f in padding(lengths, supervised, options)]
        report["plan_digest"] = first.digest
        report["datasets"] = chosen.report
        shares = [(share.name, str(share)) for share in chosen.shares]
    report["memory"] = _memory(config, None if rows is not None else longest_row_tokens(first, lengths, config))
    schedule = Schedule.of(config, total_updates(per_epoch, config.num_train_epochs, config.max_steps))
    lines = interval(config.logging_steps, schedule.updates)
    steps = range(lines, schedule.updates + 1, max(lines, schedule.updates // 1000))
    key_steps = sorted(
        {1, *steps, min(schedule.warmup + 1, schedule.updates), schedule.updates} & set(range(1, schedule.updates + 1))
    )
    report = {
        "rows": samples,
        "eval_rows": len(eval_ids),
        "packing": config.packing,
        "world_size": config.world_size,
        "samples_per_update": options.samples_per_update,
        "updates_per_epoch": per_epoch,
        "epochs": config.num_train_epochs,
        "updates": schedule.updates,
        "warmup_updates": schedule.warmup,
        "lr": {str(k): schedule.lr(k) for k in key_steps},
        **report,
    }
    if as_json:
        console.out_json(report)
    else:
        _show(report, config, shares)


def _memory(config: Config, tokens: int | None) -> dict[str, Any] | None:
    """Bytes by part on each GPU, or None where the model's shape is not known without loading it."""
    from dataclasses import asdict

    from qlora_fast.errors import ConfigError
    from qlora_fast.model.memory_estimate import Method, estimate
    from qlora_fast.model.shapes import shape_of

    try:
        shape = shape_of(config.model_name_or_path)
        if shape is None:
            return None
        longest = tokens or config.row_budget
        memory = estimate(shape, Method.of(config, longest))
    except ConfigError:
        return None
    return {"longest_row": longest, **asdict(memory), "weights": memory.weights, "total": memory.total}


def _select(config: Config) -> tuple[PreparedDataset, Selection, int]:
    """The data, what of it is trained on, and how many rows are held out."""
    from qlora_fast.data.prepare import prepare_config, prepare_evals
    from qlora_fast.data.selection import eval_rows, select
    from qlora_fast.data.tokenizer import tokenizer_of

    tokenizer = tokenizer_of(config)
    with console.progress() as tick:
        prepared = prepare_config(config, tokenizer=tokenizer, progress=tick)
        evals = [e for _, e in prepare_evals(config, tokenizer=tokenizer, progress=tick)]
    chosen = select(prepared, config, evals)
    held_out = sum(len(eval_rows(e, config)) for e in evals) if evals else len(chosen.eval_ids)
    return prepared.open(), chosen, held_out


def _sum(report: dict[str, Any], config: Config) -> str:
    if config.max_steps is not None:
        return f"{report['updates']:,} (max_steps; {report['updates_per_epoch']:,} would be an epoch)"
    epochs = f"{report['epochs']:g} epoch{'s' * (report['epochs'] != 1)}"
    return f"{report['updates_per_epoch']:,} an epoch × {epochs} = {report['updates']:,}"


def _show(report: dict[str, Any], config: Config, shares: list[tuple[str, str]]) -> None:
    from qlora_fast.model.shapes import gb

    updates, warmup = report["updates"], report["warmup_updates"]
    batch = f"{config.per_device_train_batch_size} × {config.gradient_accumulation_steps} × {config.world_size}"
    unit = "full rows" if config.packing == "dense" else "samples"
    rates = report["lr"]
    shown = [k for k in rates if int(k) in {1, 10, 20, 30, warmup + 1, updates // 2, updates}]
    lines = [
        ("rows", f"{report['rows']:,} to train on, {report['eval_rows']:,} held out"),
        *(("", f"{name}: {share}") for name, share in shares if len(shares) > 1 or "," in share),
        ("update", f"{report['samples_per_update']:,} {unit} (batch {batch})"),
        (
            "updates",
            f"{_sum(report, config)}, {warmup:,} of them warm-up",
        ),
        ("rate", ", ".join(f"{rates[k]:.3e} at {int(k):,}" for k in shown) + f"  ({config.lr_scheduler_type})"),
    ]
    if "tokens_per_update" in report:
        tokens = report["tokens_per_update"]
        lines.append(("tokens", f"{tokens['min']:,} – {tokens['max']:,} an update, {tokens['mean']:,.0f} on average"))
        for i, fill in enumerate(report["padding"]):
            chosen = "  ← this run" if fill["packing"] == config.packing else ""
            text = f"{fill['packing']:<9}{fill['real_share']:>6.1%} real tokens, {fill['rows']:,} rows, {fill['updates']:,} updates an epoch{chosen}"
            lines.append(("batching" if i == 0 else "", text))
    memory = report["memory"]
    if memory is not None:
        parts = ", ".join(
            f"{part} {gb(memory[part])}" for part in ("weights", "adapter", "optimizer", "activations", "logits")
        )
        lines.append(("memory", f"{gb(memory['total'])} GB on each GPU: {parts}"))
        lines.append(("", f"for rows of {memory['longest_row']:,} tokens; other ways: qlora-fast memory CONFIG.yaml"))
    console.rows_out(lines)
