"""Single rows of the data, looked at before anything is prepared: what each is, or why it would be dropped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qlora_fast import _core
from qlora_fast.config import Config
from qlora_fast.data import drop_reasons
from qlora_fast.data.prepare import Progress, core_options
from qlora_fast.data.tokenizer import Tokenizer
from qlora_fast.errors import ConfigError, DataError

_MOST_DIGITS = 18
"""Of a row that the core can count."""


def inspect_rows(
    config: Config,
    data: Sequence[str] | None,
    places: Sequence[str],
    *,
    tokenizer: Tokenizer,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Rows as the core sees them, in the order of ``places``: ``7``, or ``data.json:7`` where there are several files.

    Rows count from 0, as in every report. Only the files that are named are read, and no further than to the row; with
    ``deduplicate: exact`` also the files before.

    Raises:
        ConfigError: a place that is none, or has no row.
        DataError, TokenizerError: see :func:`qlora_fast.data.prepare.prepare_config`.
    """
    options = core_options(config, data, out="", tokenizer=tokenizer)
    files = [file.get("name", file["path"]) for file in options["data"]]
    wanted = [_place(place, files) for place in places]
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for file in dict.fromkeys(file for file, _ in wanted):
        rows = list(dict.fromkeys(row for other, row in wanted if other == file))
        inspected = _core.inspect_rows(options, file, rows, progress)
        found |= {(file, row): {**report} for row, report in zip(rows, inspected, strict=True)}
    return [_explained(found[place]) for place in wanted]


def _place(place: str, files: Sequence[str]) -> tuple[int, int]:
    """Index of the file, and row."""
    name, _, row = place.rpartition(":")
    if not row.isdecimal() or len(row) > _MOST_DIGITS:
        raise ConfigError(f"`{place}` is not a row", hint="rows count from 0: --row 7, or --row data.json:7")
    if not name:
        if len(files) > 1:
            raise ConfigError(f"row {row} of which file?", hint=f"there are {len(files)}: --row {files[0]}:{row}")
        return 0, int(row)
    exact = [i for i, file in enumerate(files) if file == name]
    alike = exact or [i for i, file in enumerate(files) if Path(file).name == name]
    if len(alike) != 1:
        shown = ", ".join(files[:6]) + (", …" if len(files) > 6 else "")
        what = f"no file `{name}`" if not alike else f"`{name}` is {len(alike)} files"
        raise DataError(f"{what} in the data", hint=f"it has {shown}")
    return alike[0], int(row)


def _explained(row: dict[str, Any]) -> dict[str, Any]:
    """With the reason, if there is one, in words."""
    if row["dropped"] is not None:
        found = drop_reasons.explain(row["dropped"]["reason"])
        row["dropped"] |= {"what": found.what if found else "", "mend": found.fix if found else ""}
    return row
