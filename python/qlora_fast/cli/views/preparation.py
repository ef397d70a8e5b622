"""The report of a preparation as text: the outcome of every row, other cutoffs, ways to batch."""

from __future__ import annotations

from typing import Any

from qlora_fast.cli import console
from qlora_fast.data.drop_reasons import shown_key
from qlora_fast.data.findings import findings, place
from qlora_fast.data.length_stats import counts

_MOST_CUT_SHOWN = 5
_INDENT = "    "


def show(report: dict[str, Any], model: str | None = None) -> None:
    """Print names and values, then three tables."""
    console.rows_out(_facts(report, model))
    _cutoffs(report)
    _batching(report)


def _facts(report: dict[str, Any], model: str | None) -> list[tuple[str, str]]:
    dropped = sum(report["rows_dropped"].values())
    learned = report["supervised_tokens"] / max(report["tokens"], 1)
    lengths = report["lengths"]
    lines = [("prepared", f"{report['path']}" + ("  (already prepared)" if report.get("reused") else ""))]
    if model is not None:
        lines.append(("model", model))
    lines += [
        ("template", f"{report['template']}, records: {report['format']}"),
        *([("", report["template_note"])] if report.get("template_note") else []),
        ("rows", f"{report['rows_read']:,} read = {report['rows_kept']:,} kept + {dropped:,} dropped"),
        *_dropped(report),
    ]
    for title, key in (("repaired", "repairs"), ("note", "notices")):
        lines += [(title, f"{n:,} {name}: {report['explanations'][name]}") for name, n in report[key].items()]
    lines += [("note", found.text) for found in findings(report) if found.name == "longer_than_the_model"]
    ignored = {name: n for name, n in report["ignored_keys"].items() if name != "rejected"}
    lines += [("ignored", shown_key(name, count)) for name, count in ignored.items()]
    cut = (
        f"{report['tokens_cut']:,} truncated in {report['rows_truncated']:,} rows"
        if report["tokens_cut"]
        else "none truncated"
    )
    lines += [
        ("tokens", f"{report['tokens']:,} kept ({learned:.0%} supervised), {cut}"),
        *_most_cut(report),
        ("lengths", "  ".join(f"{name} {lengths[name]:,}" for name in ("p50", "p90", "p95", "p99", "max"))),
    ]
    if "engine" in report:
        engine = report["engine"]
        used = f" with {engine['name']}" if engine["name"] else ""
        why = f" ({engine['reason']})" if engine["reason"] else ""
        lines.append(("time", f"{report['seconds']['total']:.2f} s{used}{why}"))
    return lines


def _dropped(report: dict[str, Any]) -> list[tuple[str, str]]:
    examples = {e["reason"]: e for e in reversed(report["dropped_examples"])}
    lines = []
    for reason, count in report["rows_dropped"].items():
        where = examples.get(reason)
        first = f"  first: {place(where)}" if where else ""
        lines.append(("", f"  {count:,} {reason}{first}"))
        lines.append(("", f"{_INDENT}{report['explanations'][reason]}"))
    if report.get("rejected_file"):
        lines.append(("", f"  all of them, to fix and prepare again: {report['rejected_file']}"))
    return lines


def _most_cut(report: dict[str, Any]) -> list[tuple[str, str]]:
    lines = []
    for row in report["most_cut"][:_MOST_CUT_SHOWN]:
        turns = f", {row['turns_cut']:,} turns removed" if row["turns_cut"] else ""
        lines.append(("", f"  {place(row)}  {row['tokens_cut']:,} of {row['tokens']:,} truncated{turns}"))
    return lines


def _cutoffs(report: dict[str, Any]) -> None:
    """What each cutoff truncates, of the lengths before truncation."""
    counted = counts(report["full_lengths"])
    rows, tokens = counted.total_samples, counted.total_tokens
    table: list[tuple[str, ...]] = []
    for loss in report["cutoffs"]:
        cutoff = loss["cutoff_len"]
        marks = {
            "current": cutoff == report["cutoff_len"],
            "suggested: just above the 95th percentile": cutoff == report["suggested_cutoff"],
        }
        said = ", ".join(text for text, is_it in marks.items() if is_it)
        if not loss["rows"] and not said:
            if table and table[-1][1] == "0":
                continue
            said = "truncates nothing"
        shares = (f"{loss['rows'] / max(rows, 1):.1%}", f"{loss['tokens'] / max(tokens, 1):.1%}")
        table.append((f"{cutoff:,}", f"{loss['rows']:,}", shares[0], f"{loss['tokens']:,}", shares[1], said))
    console.out()
    console.table_out([("cutoff_len", "rows truncated", "", "tokens truncated", "", ""), *table])


def _batching(report: dict[str, Any]) -> None:
    fills = [(f["packing"], f"{f['real_share']:.1%}", f"{f['rows']:,}", f"{f['updates']:,}") for f in report["padding"]]
    console.out()
    console.table_out([("packing", "not padding", "rows per epoch", "steps per epoch"), *fills])
    batches = [
        (
            f"{b['samples']:,}",
            f"{b['updates']:,}",
            f"{b['rows_mean']:.1f}",
            f"{b['rows_max']:,}",
            f"{b['tokens_mean']:,.0f}",
        )
        for b in report["effective_batches"]
    ]
    console.out()
    head = ("samples per step", "steps per epoch", "packed rows per step", "at most", "tokens per step")
    console.table_out([head, *batches])
