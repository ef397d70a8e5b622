"""What a preparation found that concerns a training on it: the same list, and the same line, in every command.

``prep`` shows each finding with its explanation; ``plan`` and ``train`` show :func:`line`, and a run stores
:func:`as_json` in run.json and train_results.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from qlora_fast.data.drop_reasons import explain, explain_key
from qlora_fast.errors import ConfigError, DataError, QloraFastError
from qlora_fast.hub import untrusted

Kind = Literal["dropped", "cut", "repaired", "ignored_key", "note"]
_TITLES: dict[Kind, str] = {
    "dropped": "dropped", "cut": "cut", "repaired": "repaired", "ignored_key": "ignored keys", "note": "notes",
}  # fmt: skip
_LABEL = "rejected"
"""The key that an earlier preparation wrote into its rejected.jsonl: no finding when such a file is prepared."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: what became of the rows: ``dropped``, ``cut``, ``repaired``, ``ignored_key`` or ``note`` (kept as they are).
        name: the core's name for it, or the key.
        rows: how many rows it concerns; 0: the whole data.
        first: ``file:line (row n)`` of the first such row, where it is known.
        text: one sentence for people.
    """

    kind: Kind
    name: str
    rows: int
    first: str
    text: str


def findings(report: Mapping[str, Any]) -> list[Finding]:
    """What the report of a preparation holds.

    Args:
        report: a manifest, or what ``prepare`` made of it: with ``template_note``, and with ``model_positions``, how many
            positions the model knows.
    """
    places = {row["reason"]: place(row) for row in reversed(report["dropped_examples"])}
    found = [
        Finding("dropped", name, rows, places.get(name, ""), _explained(name))
        for name, rows in report["rows_dropped"].items()
    ]
    if report["rows_truncated"]:
        first = place(report["most_cut"][0]) if report["most_cut"] else ""
        text = f"{report['tokens_cut']:,} tokens were cut at cutoff_len {report['cutoff_len']:,}"
        found.append(Finding("cut", "cutoff_len", report["rows_truncated"], first, text))
    found += [Finding("repaired", name, rows, "", _explained(name)) for name, rows in report["repairs"].items()]
    found += [
        Finding("ignored_key", key, rows, "", explain_key(key) or "no format gives this key a meaning")
        for key, rows in report["ignored_keys"].items()
        if key != _LABEL
    ]
    found += [Finding("note", name, rows, "", _explained(name)) for name, rows in report["notices"].items()]
    if report.get("template_note"):
        found.append(Finding("note", "template", 0, "", str(report["template_note"])))
    limit = report.get("model_positions")
    if limit is not None and report["lengths"]["max"] > limit:
        text = f"the longest row has {report['lengths']['max']:,} tokens, the model knows {limit:,} positions"
        found.append(Finding("note", "longer_than_the_model", 0, "", text))
    return found


def line(report: Mapping[str, Any], found: Sequence[Finding]) -> str:
    """All findings in one line: ``data: 50 rows read = 10 kept + 40 dropped (empty_answer 40); 5 cut (90 tokens)``."""
    dropped = sum(report["rows_dropped"].values())
    kept = f"{report['rows_read']:,} rows read = {report['rows_kept']:,} kept + {dropped:,} dropped"
    parts = [kept + _listed(found, "dropped")]
    if report["rows_truncated"]:
        parts.append(f"{report['rows_truncated']:,} cut ({report['tokens_cut']:,} tokens)")
    for kind in ("repaired", "ignored_key"):
        if listed := _listed(found, kind):
            parts.append(_TITLES[kind] + listed)
    parts += [f.text if not f.rows else f"{f.rows:,} {f.name}" for f in found if f.kind == "note"]
    return "data: " + "; ".join(parts)


def as_json(report: Mapping[str, Any], found: Sequence[Finding]) -> dict[str, Any]:
    """The counts and the findings with their first places, for run.json and train_results.json."""
    counts = {key: report[key] for key in ("rows_read", "rows_kept", "rows_truncated", "tokens", "tokens_cut")}
    return {**counts, "rows_dropped": sum(report["rows_dropped"].values()), "findings": [asdict(f) for f in found]}


def check(
    report: Mapping[str, Any], found: Sequence[Finding], max_dropped_share: float, beyond_the_model: bool
) -> None:
    """Refuse data that a run should not begin with.

    Raises:
        DataError: more than ``max_dropped_share`` of the rows were dropped.
        ConfigError: rows are longer than the model's positions, and ``train_beyond_max_positions`` does not allow it.
    """
    dropped, read = sum(report["rows_dropped"].values()), report["rows_read"]
    if dropped > max_dropped_share * read:
        worst = max((f for f in found if f.kind == "dropped"), key=lambda f: f.rows)
        raise DataError(
            f"{dropped:,} of {read:,} rows were dropped, most as {worst.name} (first: {worst.first})",
            hint=f"{worst.text}; `max_dropped_share` (now {max_dropped_share:g}) sets how many may be",
        )
    too_long = next((f for f in found if f.name == "longer_than_the_model"), None)
    if too_long is not None and not beyond_the_model:
        raise ConfigError(
            f"rows are too long for the model: {too_long.text}",
            hint="lower `cutoff_len`; `train_beyond_max_positions: true` trains on positions that the model has never seen",
        )


def max_positions(folder: Path) -> int | None:
    """How many positions a model's config.json names, its RoPE scaling included; None where it names none.

    A folder with a tokenizer alone, as that of a GGUF file, may say it in its tokenizer_config.json. Files that cannot be
    read are refused where the model is loaded, not here.
    """
    if not (folder / untrusted.MODEL_CONFIG).is_file():
        return _longest_text(folder)
    try:
        config = untrusted.read_json(folder / untrusted.MODEL_CONFIG, untrusted.ModelConfig)
    except QloraFastError:
        return None
    config = {**config, **(config.get("text_config") or {})}
    limit = config.get("max_position_embeddings")
    if not isinstance(limit, int):
        return None
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    factor = scaling.get("factor") if isinstance(scaling, dict) else None
    if isinstance(factor, int | float) and factor > 1:
        original = scaling.get("original_max_position_embeddings", limit)
        limit = max(limit, int(factor * original))
    return limit


def _longest_text(folder: Path) -> int | None:
    """``model_max_length``; transformers writes 1e30 where it is not known."""
    try:
        config = untrusted.read_optional(folder / untrusted.TOKENIZER_CONFIG, untrusted.TokenizerConfig)
    except QloraFastError:
        return None
    longest = config.get("model_max_length")
    return int(longest) if isinstance(longest, int | float) and 0 < longest < 1e9 else None


def _listed(found: Sequence[Finding], kind: Kind) -> str:
    names = [f"{f.name} {f.rows:,}" for f in found if f.kind == kind]
    return f" ({', '.join(names)})" if names else ""


def place(row: Mapping[str, Any]) -> str:
    """Where a row of a report stands: lines alone do not tell rows apart in a file of one line."""
    return f"{row['file']}:{row['line']} (row {row['row']})"


def _explained(name: str) -> str:
    return str(explain(name) or name)
