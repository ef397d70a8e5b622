"""The guide's table of experiments, from the folders of runs, with what may be concluded from it and what not."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from qlora_fast.runs import statistics
from qlora_fast.runs.read import RunRecord
from qlora_fast.runs.statistics import Difference

Report = dict[str, Any]
HEAD = (
    "run", "rank", "epochs", "lr", "dropout", "updates", "train loss", "eval loss", "perplexity", "time",
    "eval loss − baseline", "verdict",
)  # fmt: skip


def report(runs: Sequence[RunRecord], baseline: RunRecord | None = None, confidence: float = 0.95) -> Report:
    """Everything that ``compare`` shows, as plain data.

    Args:
        baseline: the run that the others are compared with; default the first.
    """
    baseline = baseline or runs[0]
    others = [run for run in runs if run is not baseline]
    each = statistics.joint_confidence(len(others), confidence)
    lines, notes = [], []
    for run in runs:
        changed = [] if run is baseline else _changed(run, baseline)
        line = _line(run, changed)
        if run is not baseline:
            line["difference"], problem = _difference(run, baseline, each)
            if problem:
                notes.append(f"{run.name} is not compared with {baseline.name}: {problem}")
            if len(changed) > 1 and line["difference"]:
                notes.append(
                    f"{run.name} differs from {baseline.name} in more than one thing ({', '.join(changed)}): what they "
                    "did together shows, not what each did"
                )
        if not run.finished:
            notes.append(f"{run.name} is not finished")
        lines.append(line)
    shown = sum(1 for line in lines if line["difference"])
    if shown:
        joint = f"; all {len(others)} intervals hold together" if len(others) > 1 else ""
        notes.append(
            f"[low, high]: where the difference lies with {confidence:.0%}, paired over the same samples{joint}. It is about "
            "these adapters on data like this: another seed is another adapter"
        )
    return {
        "baseline": baseline.name,
        "confidence": confidence,
        "comparisons": len(others),
        "runs": lines,
        "notes": notes,
    }


def cells(made: Report) -> list[list[str]]:
    """The table as text, heading first."""
    return [list(HEAD), *(_cells(line, line["name"] == made["baseline"]) for line in made["runs"])]


def markdown(made: Report) -> str:
    """The table and its notes for a README."""
    head, *rows = cells(made)
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in line)} |" for line in lines)
    return table + "\n\n" + "\n".join(f"- {note}" for note in made["notes"]) + "\n"


def _line(run: RunRecord, changed: list[str]) -> Report:
    config, results = run.config, run.results
    return {
        "name": run.name,
        "path": str(run.path),
        "finished": run.finished,
        "lora_rank": config.lora_rank,
        "num_train_epochs": config.num_train_epochs,
        "learning_rate": config.learning_rate,
        "lora_dropout": config.lora_dropout,
        "updates": results.get("train_steps", max((int(e["step"]) for e in run.log_history), default=0)),
        "train_loss": results.get("train_loss"),
        "eval_loss": run.eval_loss,
        "perplexity": run.perplexity,
        "eval_samples": None if run.samples is None else len(run.samples),
        "seconds": results.get("train_runtime"),
        "changed": changed,
        "difference": None,
    }


def _difference(run: RunRecord, baseline: RunRecord, confidence: float) -> tuple[Report | None, str | None]:
    if run.samples is None or baseline.samples is None:
        who = run if run.samples is None else baseline
        hint = f"make one with `qlora-fast evaluate {shlex.quote(str(who.path))}`"
        if not who.finished:
            hint = "it is written when the run has finished: resume_from_checkpoint=true resumes"
        return None, f"{who.name} has no per-sample evaluation; {hint}"
    found = statistics.compare(run.samples, baseline.samples, confidence=confidence)
    if not isinstance(found, Difference):
        return None, found.reason
    return {**asdict(found), "verdict": found.verdict}, None


def _changed(run: RunRecord, baseline: RunRecord) -> list[str]:
    ours, theirs = run.settings(), baseline.settings()
    return [f"{name} {_short(theirs[name])} → {_short(ours[name])}" for name in ours if ours[name] != theirs[name]]


def _cells(line: Report, is_baseline: bool) -> list[str]:
    difference = line["difference"]
    return [
        line["name"] + ("" if line["finished"] else " (not finished)"),
        str(line["lora_rank"]),
        f"{line['num_train_epochs']:g}",
        _short(line["learning_rate"]),
        f"{line['lora_dropout']:g}",
        f"{line['updates']:,}",
        _number(line["train_loss"], 4),
        _number(line["eval_loss"], 4),
        _number(line["perplexity"], 2),
        _time(line["seconds"]),
        "baseline" if is_baseline else _interval(difference),
        "" if is_baseline else difference["verdict"] if difference else "not compared",
    ]


def _interval(difference: Report | None) -> str:
    if difference is None:
        return "–"
    return f"{difference['mean']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"


def _short(value: Any) -> str:
    if isinstance(value, float):
        mantissa, e, exponent = f"{value:g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if e else mantissa if value >= 1e-3 or value == 0 else _scientific(value)
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _scientific(value: float) -> str:
    mantissa, _, exponent = f"{value:.6e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
