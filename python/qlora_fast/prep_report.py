"""The report of a preparation: everything ``prep`` shows, as one document, and the files that people keep.

A folder that is kept holds ``report.json`` and ``length_histogram.png``. Drawing takes longer than preparing, so it is
done only when asked for: ``prep --report`` or ``qlora-fast report``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qlora_fast.errors import ArtifactError
from qlora_fast.reasons import explain
from qlora_fast.stats import review

if TYPE_CHECKING:
    from qlora_fast.planning import PlanOptions

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
        **review(folder, options),
        "explanations": {name: str(explain(name) or name) for name in names},
        "rejected_file": str(rejected) if rejected.is_file() else None,
    }


def of_folder(folder: Path) -> dict[str, Any]:
    """What ``prepare`` said of a folder that is there.

    Raises:
        ArtifactError: it is not a prepared dataset.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ArtifactError(
            f"`{folder}` is not a prepared dataset", hint="make one with `qlora-fast prep DATA`; it prints the folder"
        ) from None
    return {"path": str(folder), **manifest}


def keep(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write the files that people keep; their paths."""
    from qlora_fast.durable import write_text
    from qlora_fast.length_plot import draw

    folder.mkdir(parents=True, exist_ok=True)
    document = folder / "report.json"
    write_text(document, json.dumps(report, ensure_ascii=False, indent=2, default=str) + "\n")
    return [document, draw(report, folder / "length_histogram.png")]
