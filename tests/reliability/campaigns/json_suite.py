"""JSONTestSuite: each of its 318 values in a field of a row, in an array and as a line, and the file as it is.

A ``y_`` value is read, an ``n_`` one refused: as a file, or, where the row that holds it can be distinguished from its neighbours, as that
row. An ``i_`` value may be either; docs/data.md has our choice. As a file by itself each ends in an answer, whatever it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from paths import FIXTURES
from reliability.case import Campaign, Case, Failure, no_crash, refused
from reliability.world import World

_FIRST, _LAST = b'{"instruction": "a", "output": "b"}', b'{"instruction": "e", "output": "f"}'


def suite() -> dict[str, bytes]:
    """Every case by its name."""
    stored = json.loads((FIXTURES / "json_suite" / "cases.json").read_text(encoding="utf-8"))
    texts = {k: v if isinstance(v, str) else v[0] * v[1] + v[2] for k, v in stored.items()}
    return {name: text.encode("latin-1") for name, text in texts.items()}


def forms(value: bytes) -> dict[str, bytes]:
    """A value as it stands in data files."""
    row = b'{"instruction": "c", "output": "d", "x": ' + value + b"}"
    found = {"file": value, "array": b"[" + b",\n".join((_FIRST, row, _LAST)) + b"]"}
    if not {b"\n"[0], b"\r"[0]} & set(value):
        found["line"] = b"\n".join((_FIRST, row, _LAST)) + b"\n"
    return found


def _cases(world: World) -> Iterator[Case]:
    for name, value in suite().items():
        for form, content in forms(value).items():
            yield Case(f"{name}, {form}", partial(_read, world, name, form, content))


def _read(world: World, name: str, form: str, content: bytes) -> str:
    here: Path = world.fresh()
    (here / "d.json").write_bytes(content)
    ran = no_crash(world.run(world.prep_words(here / "d.json", "--json"), here))
    if ran.status != 0:
        refused(ran)
    if form == "file":
        return "an answer"
    report = json.loads(ran.out) if ran.status == 0 else None
    taken = report is not None and report["rows_kept"] == 3
    rejected = report is None or (report["rows_kept"] == 2 and sum(report["rows_dropped"].values()) == 1)
    if name.startswith("y_") and not taken:
        raise Failure("refused", ran.said)
    if name.startswith("n_") and not rejected:
        raise Failure("taken", str(report and report["rows_dropped"]))
    if not (taken or rejected):
        raise Failure("not reported", str(report and (report["rows_kept"], report["rows_dropped"])))
    return f"{name[:2]} {'taken' if taken else 'refused' if report is None else 'row dropped'}"


CAMPAIGN = Campaign("json-suite", _cases, 60)
