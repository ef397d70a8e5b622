"""What may stand behind `dataset`: containers, globs, folders, standard input, the data in the package."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from cli_run import cli
from qlora_fast.data import sources
from qlora_fast.errors import DataError
from source_files import DEMO, ROWS, prepared, same, write

TALK = [
    {
        "conversations": [{"from": "human", "value": f"q{i}"}, {"from": "gpt", "value": "a" * (i + 1)}],
        "tools": "[]",
        "score": i / 3,
    }
    for i in range(12)
]


def failure(settings: dict[str, Any], name: str) -> DataError | None:
    try:
        prepared(settings, name)
    except DataError as error:
        return error
    return None


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd"])
def test_parquet_gives_the_samples_of_the_plain_file(codec: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    talks = json.loads((DEMO / "tool_calls.json").read_text(encoding="utf-8"))
    parts = [json.loads(line) for line in (DEMO / "parts.jsonl").read_text(encoding="utf-8").splitlines()]
    turns = [
        {"messages": [{"role": m["role"], "content": str(m["content"])} for m in row["messages"]]} for row in parts
    ]
    for name, rows in (("alpaca", ROWS), ("talk", TALK), ("tools", talks), ("turns", turns)):
        write(tmp_path / f"{name}.json", rows)
        table = pa.Table.from_pylist(rows)
        # Small pages and row groups: lists reach over their borders.
        pq.write_table(table, tmp_path / name, compression=codec, row_group_size=5, data_page_size=200)
        plain = prepared(settings, f"{name}.json").open()
        columns = prepared(settings, name)
        assert same(plain, columns.open()), name
        assert columns.report["rows_read"] == len(rows)
        assert str(columns.open().origin(len(plain) - 1)).startswith(str(tmp_path / name))


def test_a_damaged_parquet_file_never_crashes(tmp_path: Path, settings: dict[str, Any]) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist(TALK), tmp_path / "whole", compression="zstd")
    whole = (tmp_path / "whole").read_bytes()
    refused = 0
    for at in range(4, len(whole), max(1, len(whole) // 80)):
        for number, damaged in enumerate((whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])):
            (tmp_path / "data").write_bytes(damaged)
            error = failure(settings, "data")
            assert error is not None or number == 1, "a truncated file was taken for whole"
            refused += error is not None
            assert error is None or ("data" in str(error) and error.hint)
    assert refused > 100


def test_parquet_null_is_a_missing_key(tmp_path: Path, settings: dict[str, Any]) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [*ROWS[:3], TALK[0], {"instruction": None, "output": None}]
    names = ["instruction", "input", "output", "conversations"]
    pq.write_table(pa.Table.from_pylist([{n: row.get(n) for n in names} for row in rows]), tmp_path / "mixed")
    made = prepared(settings, "mixed")
    assert made.report["rows_kept"] == 4
    assert made.report["rows_dropped"] == {"unknown_format": 1}
    assert made.report["ignored_keys"] == {}


def test_a_damaged_archive_is_one_clear_message(tmp_path: Path, model_dir: Path) -> None:
    packed = gzip.compress(json.dumps(ROWS).encode())
    (tmp_path / "data.json.gz").write_bytes(packed[: len(packed) // 2])
    ran = cli("prep", "data.json.gz", f"model_name_or_path={model_dir}", cwd=tmp_path)
    assert ran.status == 1
    assert "`data.json.gz` is a gzip archive that ends too early" in ran.err
    assert "gzip -t data.json.gz" in ran.err
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["data.json.gz"]


def test_standard_input_is_prepared_like_a_file(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = prepared(settings, str(write(tmp_path / "rows.jsonl", ROWS)))
    made = []
    for content in (gzip.compress((tmp_path / "rows.jsonl").read_bytes()), (tmp_path / "rows.jsonl").read_bytes()) * 2:
        sources._standard_input.cache_clear()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        made.append(prepared(settings, "-"))
        assert same(made[-1].open(), plain.open())
        assert str(made[-1].open().origin(3)) == "-:4"
    # Named by its content: the same bytes are found again, wherever they were kept meanwhile.
    assert made[2].path == made[0].path != made[1].path == made[3].path
    assert made[0].path.name.startswith("stdin-")
    assert made[2].report["reused"]


def test_several_processes_cannot_share_standard_input(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources._standard_input.cache_clear()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="several processes cannot share") as error:
        prepared(settings, "-")
    assert error.value.hint == "write the data to a file and give its name"


def test_globs_and_folders_are_read_in_order(
    tmp_path: Path, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    for name, rows in (("d/b.jsonl", ROWS[10:20]), ("d/a.json", ROWS[:10]), ("d/sub/c.json", ROWS[20:25])):
        write(tmp_path / name, rows)
    (tmp_path / "d" / "z.json.gz").write_bytes(gzip.compress(json.dumps(ROWS[30:]).encode()))
    (tmp_path / "d" / "notes.txt").write_text("no data")
    (tmp_path / "d" / "._a.json").write_bytes(b"\0\5\x16\7")  # beside every file that macOS copies to another disk
    write(tmp_path / "d" / "dataset_info.json", [])
    folder = prepared(settings, "d")
    assert [Path(s["path"]).name for s in folder.report["sources"]] == ["a.json", "b.jsonl", "z.json.gz"]
    assert "not read in" in caplog.text
    assert "dataset_info.json, notes.txt, sub" in caplog.text
    assert same(prepared(settings, "d/*.json*").open(), folder.open())
    assert len(prepared(settings, "d/**/*.json").open()) == 15
    # One dataset, however many files: the first rows of all of them.
    first = prepared(settings, "d", max_samples=12)
    assert [s["rows"] for s in first.report["sources"]] == [10, 2, 0]
    caplog.clear()
    sources.resolve(["d/a.json", "d/*.json"], str(tmp_path))
    assert "is given twice" in caplog.text


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("none/*.json", "no file matches", "embedded datasets"),
        ("empty", "no data file in the folder", ".json"),
        ("rows.jsn", "no data file", "did you mean `rows.json`?"),
        ("identty", "no data file or dataset `identty`", "did you mean `identity`?"),
    ],
)
def test_names_that_stand_for_nothing(name: str, said: str, hint: str, tmp_path: Path) -> None:
    write(tmp_path / "rows.json", ROWS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=said) as caught:
        sources.resolve([name], str(tmp_path))
    assert caught.value.hint
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", sources.EMBEDDED)
def test_the_data_in_the_package_is_where_the_code_looks_for_it(name: str) -> None:
    (file,) = sources.resolve([name], "data")[0].files
    assert json.loads(Path(file).read_text(encoding="utf-8"))


def test_a_pipe_or_a_device_is_named_as_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for name in ("pipe.json", "/dev/zero"):
        with pytest.raises(DataError, match="is a pipe or a device, not a file"):
            sources.resolve([name], str(tmp_path))
