"""What ``qlora-fast train --dry-run`` prints."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from qlora_fast.cli import console, progress

if TYPE_CHECKING:
    from qlora_fast.config import Config


def show(config: Config, as_json: bool) -> None:
    """Rehearse the run and print what came of it."""
    from qlora_fast.errors import ConfigError

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a rehearsal takes one process", hint="start it without the launcher; world_size=N plans for N GPUs"
        )
    with progress.shown(waiting="rehearsing: a few rows are timed") as tick:
        from qlora_fast.train.dry_run import rehearse

        report = rehearse(config, tick)
    if as_json:
        console.out_json(report)
    else:
        console.rows_out(_lines(report))
        console.note("\nnothing was written but the prepared data")


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    from qlora_fast.model.shapes import gb
    from qlora_fast.train.duration import spell

    low, high = (spell(s) for s in report["seconds"])
    rows, memory, rates = report["rows_timed"], report["memory"], report["lr"]
    budget = report["max_tokens_per_row"]
    devices = f" on {report['world_size']} devices" if report["world_size"] > 1 else ""
    took = low if low == high else f"{low} – {high}"
    parts = [f"weights {gb(memory['weights'])}"]
    if memory["quantized_weights"]:
        parts[0] += f" (quantized {gb(memory['quantized_weights'])})"
    parts += [f"{name} {gb(memory[name])}" for name in ("adapter", "optimizer", "activations")]
    checkpointing = ", recomputed" if report["gradient_checkpointing"] else ""
    lines = [
        ("updates", f"{report['updates']:,}, {report['warmup_updates']:,} of them warm-up; {report['tokens_per_update']:,.0f} tokens each"),
        ("rate", ", ".join(f"{rate:.3e} at {int(k):,}" for k, rate in rates.items())),
        ("time", f"{took}{devices} ({report['seconds_per_update']:.2f} s per update, {report['evaluations']} evaluations)"),
        ("", f"from {len(rows)} rows of {rows[0]['tokens']:,} – {rows[-1]['tokens']:,} tokens: {report['tokens_per_second']:,.0f} tok/s, {report['dtype']} on {report['device']}"),
        ("", f"in rows of at most {budget['tokens']:,} tokens: {budget['why']}"),
        ("memory", f"GB: {', '.join(parts)} for the longest row, {report['longest_row']:,} tokens{checkpointing}"),
        ("", f"peak {gb(memory['peak'])}" + (f", {gb(memory['free'])} still free" if memory["free"] is not None else "")),
    ]  # fmt: skip
    if memory["foretold"] is not None:
        lines.append(
            (
                "",
                f"a GPU would need {gb(memory['foretold'])} in all with the CUDA context, estimated from the model shape",
            )
        )
    return lines
