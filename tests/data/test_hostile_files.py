"""Files that are strange, broken or not files at all: one clear error, or the rows that are good."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cli_run import arguments, environment
from oracle import TOKENIZER
from qlora_fast import _core
from qlora_fast.data import sources
from qlora_fast.errors import DataError

ROW = {"instruction": "q", "output": "a"}
LINE = json.dumps(ROW)


def prepare(folder: Path, content: bytes | str | None = None, **more: Any) -> Any:
    path = folder / "data"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    options: Any = {"data": [str(path)], "tokenizer": str(TOKENIZER), "template": "qwen3", "cutoff_len": 64}
    return _core.prepare({**options, "out": str(folder / "out"), **more})


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_regular_file_is_refused_before_it_is_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match="is not a regular file"):
        prepare(tmp_path)
    (tmp_path / "dataset_info.json").write_text(json.dumps({"d": {"file_name": "data"}}))
    ran = subprocess.run(
        arguments("prep", "dataset=d", f"dataset_dir={tmp_path}"),
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"instruction": "q", "output": "half \\ud83d"}', "lone_surrogate"),
        ('{"instruction": "q", "output": "a", "score": NaN}', "number_not_finite"),
        ('{"instruction": "q", "output": "a", "score": [-Infinity, 1e999]}', "number_not_finite"),
        ('{"messages": [{"role": "user", "content": "q", "content": "r"}]}', "key_twice:content"),
    ],
)
@pytest.mark.parametrize("form", ["lines", "array", "first"])
def test_a_value_that_json_cannot_hold_costs_its_row(row: str, reason: str, form: str, tmp_path: Path) -> None:
    rows = [row, LINE, LINE] if form == "first" else [LINE, row, LINE]
    text = "[" + ",".join(rows) + "]" if form == "array" else "\n".join(rows)
    report = prepare(tmp_path, text)
    assert (report["rows_kept"], report["rows_dropped"]) == (2, {reason: 1})
    if form == "lines":
        with pytest.raises(DataError, match=reason):
            prepare(tmp_path, text, strict=True, out=str(tmp_path / "strict"))


def test_any_number_of_blank_lines_is_no_record(tmp_path: Path) -> None:
    blanks = b"\n" * (33 << 20) + b" " * (40 << 20)
    report = prepare(tmp_path, LINE.encode() + blanks + b"\n" + LINE.encode() + b"\n" + b"\r\n" * (33 << 20))
    assert report["rows_kept"] == 2
    report = prepare(tmp_path, b"[" + blanks + LINE.encode() + blanks + b"]", out=str(tmp_path / "array"))
    assert report["rows_kept"] == 1


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('[{"instruction": "é€😀", "output": "a"}, x]', ":1:41:"),
        ('[{"instruction": "é€😀", "output": "a"} "', ":1:40:"),
        ('{"instruction": "é€😀" 1}', ":1:23:"),
        ('[\n{"é": 1},{"instruction": "é€😀",\n "é" 1}]', ":3:6:"),
    ],
)
def test_columns_count_characters_from_1(content: str, place: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare(tmp_path, content)
    assert place in str(caught.value)


def test_columns_of_bytes_that_are_no_text_count_characters_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r":2:8: .*not UTF-8"):
        prepare(tmp_path, LINE.encode() + b'\n{"\xc3\xa9": "\xff"}')


@pytest.mark.parametrize("encoding", ["utf-32", "utf-32-le", "utf-32-be"])
def test_utf_32_is_named(encoding: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is UTF-32 text"):
        prepare(tmp_path, f"[{LINE}]".encode(encoding))


@pytest.mark.parametrize("compression", ["brotli", "lz4", "snappy", "zstd", "gzip", "none"])
def test_parquet_of_any_compression_is_read(compression: str, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"instruction": f"q {i}", "output": "long " * i} for i in range(1, 200)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data", compression=compression)
    assert prepare(tmp_path)["rows_kept"] == len(rows)


def test_names_that_are_not_utf_8_are_shown_escaped(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.json"
    with open(path, "w") as file:
        file.write(LINE)
    with pytest.raises(DataError) as caught:
        sources.resolve([os.fsdecode(path)])
    assert "caf\\xe9.json` is not UTF-8" in str(caught.value)
