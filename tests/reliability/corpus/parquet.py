"""Parquet: every type and codec, and files that are cut, changed or something else."""

from __future__ import annotations

import datetime
import decimal
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reliability.corpus.entry import ANSWERS, Entry

_TWO = {"instruction": ["a", "b"], "output": ["x", "y"]}
_SIMPLE = {"instruction": ["ask one", "ask two"], "output": list(ANSWERS)}


def written(columns: dict[str, Any] | pa.Table, **options: Any) -> bytes:
    made = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), made, **options)
    return made.getvalue()


def _changed(at: int, value: bytes) -> Callable[[], bytes]:
    def make() -> bytes:
        content = bytearray(written(_SIMPLE))
        start = at % len(content)
        content[start : start + len(value)] = value
        return bytes(content)

    return make


def _entry(
    name: str, columns: dict[str, Any] | Callable[[], bytes], expect: str, answers: tuple[str, ...] | None = None
) -> Entry:
    content = columns if callable(columns) else lambda: written(columns)
    return Entry(f"Parquet: {name}", content, expect, "d.parquet", answers, 60)


def _row_groups() -> bytes:
    made, table = io.BytesIO(), pa.table(_SIMPLE)
    with pq.ParquetWriter(made, table.schema) as writer:
        for part in (table.slice(0, 0), table, table.slice(0, 0)):
            writer.write_table(part)
    return made.getvalue()


def _same_name_twice() -> bytes:
    columns = [pa.array(["a", "b"]), pa.array(["x", "y"]), pa.array(["p", "q"])]
    return written(pa.Table.from_arrays(columns, names=["instruction", "output", "output"]))


def _ipc() -> bytes:
    made = io.BytesIO()
    table = pa.table(_SIMPLE)
    with pa.ipc.new_file(made, table.schema) as writer:
        writer.write_table(table)
    return made.getvalue()


def _encrypted() -> bytes:
    content = written(_SIMPLE)
    return b"PARE" + content[4:-4] + b"PARE"


_TYPES = {
    "f": [1.5, float("nan")], "inf": [float("inf"), None], "t": pa.array([1, 2], pa.timestamp("ns")), "bin": [b"\xff\x00", b"x"],
    "u64": pa.array([2**64 - 1, 0], pa.uint64()), "l": [[1, 2], []], "fixed": pa.array([b"abcd", b"efgh"], pa.binary(4)),
}  # fmt: skip
_MESSAGES = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "good"}]]

ENTRIES = (
    _entry("plain", _SIMPLE, "taken", ANSWERS),
    *(
        _entry(f"compressed, {codec}", partial(written, _SIMPLE, compression=codec), "taken", ANSWERS)
        for codec in ("none", "snappy", "zstd", "gzip", "brotli", "lz4")
    ),
    _entry("nested messages", {"messages": _MESSAGES * 3}, "taken", ("good",) * 3),
    *(_entry(f"an unread column, {name}", {**_TWO, "z": value}, "taken", ("x", "y")) for name, value in _TYPES.items()),
    _entry("decimals and dates", {**_TWO, "d": [decimal.Decimal("1.1"), None], "day": [datetime.date(2024, 1, 1), None]}, "taken", ("x", "y")),
    _entry("a map", {**_TWO, "m": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64()))}, "taken", ("x", "y")),
    _entry("durations", {**_TWO, "d": pa.array([1, 2], pa.duration("s"))}, "taken", ("x", "y")),
    _entry("null columns", {**_TWO, "input": pa.nulls(2), "system": pa.array([None, None], pa.string())}, "taken", ("x", "y")),
    _entry("no rows", lambda: written(pa.table(_SIMPLE).slice(0, 0)), "refused"),
    _entry("empty row groups", _row_groups, "taken", ANSWERS),
    _entry("dictionaries", {"instruction": pa.array(["a"] * 10_000).dictionary_encode(), "output": pa.array(["b", "c"] * 5000, pa.large_string())}, "taken"),
    _entry("answers that are lists", {"instruction": ["a", "b"], "output": [["x"], ["y"]]}, "refused"),
    _entry("answers that are numbers", {"instruction": ["a", "b"], "output": [1, 2]}, "refused"),
    _entry("answers that are null", {"instruction": ["a", "b"], "output": [None, "good"]}, "drop 1", ("good",)),
    _entry("a column twice", _same_name_twice, "refused"),
    _entry("answers of bytes that are not UTF-8", {"instruction": ["a", "b"], "output": [b"\xff\xfe", b"ok"]}, "drop 1", ("ok",)),
    _entry("a text of 80 MB", lambda: written({"instruction": ["a", "b"], "output": ["x" * 80_000_000, "y"]}), "refused"),
    _entry("half", lambda: written(_SIMPLE)[: len(written(_SIMPLE)) // 2], "refused"),
    _entry("without its last byte", lambda: written(_SIMPLE)[:-1], "refused"),
    _entry("a page changed", _changed(30, b"\xff\xff\xff"), "refused"),
    _entry("a footer that is too long", _changed(-8, b"\xff\xff\xff\x7f"), "refused"),
    _entry("a negative footer", _changed(-8, b"\xff\xff\xff\xff"), "refused"),
    _entry("a footer of nothing", _changed(-8, b"\0\0\0\0"), "refused"),
    _entry("a footer of NULs", _changed(-200, b"\0" * 100), "taken", ANSWERS),
    _entry("only the marks", lambda: b"PAR1PAR1", "refused"),
    _entry("empty", lambda: b"", "refused"),
    _entry("Arrow IPC under its name", _ipc, "refused"),
    _entry("JSON under its name", lambda: b'[{"instruction":"a","output":"b"}]', "taken", ("b",)),
    _entry("encrypted", _encrypted, "refused"),
)  # fmt: skip
