"""The report of a preparation: everything ``prep`` shows, as one document, and the files that people keep.

A folder that is kept holds ``report.json`` and ``length_histogram.png``. Drawing takes longer than preparing, so it is
done only when asked for: ``prep --report`` or ``qlora-fast report``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qlora_fast import _core
from qlora_fast.data.drop_reasons import explain
from qlora_fast.data.length_stats import batching_report

if TYPE_CHECKING:
    from qlora_fast.data.plan import PlanOptions

FOLDER = "report"
"""Where the files are kept, inside the prepared folder."""
_REJECTED = "rejected.jsonl"


def build(prepared: dict[str, Any], options: PlanOptions) -> dict[str, Any]:
    """The report of a prepared folder: its manifest (or the core's answer to ``prepare``, which holds it), what it
    means for a run, and an explanation of every name in it."""
    folder = Path(prepared["path"])
    names = [*prepared["rows_dropped"], *prepared["repairs"], *prepared["notices"]]
    rejected = folder / _REJECTED
    return {
        **prepared,
        **batching_report(folder, options),
        "explanations": {name: str(explain(name) or name) for name in names},
        "rejected_file": str(rejected) if rejected.is_file() else None,
    }


def of_folder(folder: Path) -> dict[str, Any]:
    """What ``prepare`` said of a folder that is there.

    Raises:
        ArtifactError: it is not a prepared dataset.
    """
    return {"path": str(folder), **_core.read_manifest(folder)}


def keep(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write the files that people keep; their paths."""
    from qlora_fast.atomic_io import write_text

    folder.mkdir(parents=True, exist_ok=True)
    document = folder / "report.json"
    write_text(document, json.dumps(report, ensure_ascii=False, indent=2, default=str) + "\n")
    return [document, draw_lengths(report, folder / "length_histogram.png")]


def draw_lengths(report: dict[str, Any], path: Path) -> Path:
    """Draw the report's histogram of lengths; returns the picture's path."""
    import numpy as np

    from qlora_fast.data.length_histogram import plot_lengths

    counted = _core.length_counts(report["full_lengths"])
    lengths, samples = np.array(counted.lengths, dtype=np.int64), np.array(counted.samples, dtype=np.int64)
    names = ", ".join(Path(source["path"]).name for source in report["sources"][:3])
    title = names + (", …" if len(report["sources"]) > 3 else "")
    cutoff, suggested = int(report["cutoff_len"]), int(report["suggested_cutoff"])
    return plot_lengths(lengths, samples, path, cutoff=cutoff, suggested=suggested, title=title)
