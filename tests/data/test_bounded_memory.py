"""The promise about memory, for every kind of file: the peak of the whole process does not grow with the data."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli_run import arguments, environment

ROWS = 200_000
MOST_MIB = 150
"""Twice what the program takes for a handful of rows; the text alone is more."""
# A process of its own between: a child's peak begins with what its parent holds, and pytest holds much.
PEAK = """
import json, resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
print(json.dumps([status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10]))
"""


def prep(folder: Path, name: str, model: Path, *words: str, refused: bool = False) -> tuple[str, int]:
    """What `prep` of a file says, and its peak in MiB."""
    command = [sys.executable, "-c", PEAK, *arguments("prep", name, f"model_name_or_path={model}", *words)]
    ran = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    status, peak = json.loads(ran.stdout)
    assert status == int(refused), ran.stderr
    return ran.stderr, peak


def row(i: int) -> dict[str, str]:
    return {"instruction": f"question {i}", "input": "", "output": f"answer {i} " + "of words that repeat " * 40}


def lines() -> bytes:
    return b"".join(json.dumps(row(i)).encode() + b"\n" for i in range(ROWS))


def plain_array(path: Path) -> None:
    path.write_bytes(b"[" + lines().rstrip().replace(b"\n", b",\n") + b"]")


def gzip_array(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"[" + lines().rstrip().replace(b"\n", b",\n") + b"]")


def zstd_lines(path: Path) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(lines())


def parquet_of_one_group(path: Path) -> None:
    table = pa.Table.from_pylist([row(i) for i in range(ROWS)])
    pq.write_table(table, path, row_group_size=ROWS, use_dictionary=False)


@pytest.mark.slow
@pytest.mark.parametrize("write", [plain_array, gzip_array, zstd_lines, parquet_of_one_group])
def test_memory_does_not_grow_with_the_data(write: Callable[[Path], None], model_dir: Path, tmp_path: Path) -> None:
    write(tmp_path / "data")
    said, peak = prep(tmp_path, "data", model_dir, "--json")
    assert json.loads(said)["rows_kept"] == ROWS
    assert peak < MOST_MIB


def _alone(large: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return [{"instruction": "q", "output": large}], {}


def _among_others(large: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows = [{"instruction": f"q {i}", "output": f"a {i}"} for i in range(500)]
    return [*rows, {"instruction": "q", "output": large}, *rows], {}


def _in_a_list(large: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": large}]
    return [{"messages": turns[:1] * 2}, {"messages": turns}], {}


def _uncompressed_and_escaped(large: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return [{"instruction": "q", "output": large[: len(large) // 2].replace("x", "\n")}] * 2, {"compression": "none"}


@pytest.mark.parametrize(
    ("rows", "row", "column"),
    [
        pytest.param(_alone, 1, "output", marks=pytest.mark.slow),
        (_among_others, 501, "output"),
        pytest.param(_in_a_list, None, "messages", marks=pytest.mark.slow),
        pytest.param(_uncompressed_and_escaped, 1, "output", marks=pytest.mark.slow),
    ],
)
def test_a_parquet_row_is_bounded_as_a_json_row_is(
    rows: Callable[[str], tuple[list[dict[str, Any]], dict[str, Any]]], row: int | None, column: str,
    model_dir: Path, tmp_path: Path,
) -> None:  # fmt: skip
    content, options = rows("x" * 80_000_000)
    pq.write_table(pa.Table.from_pylist(content), tmp_path / "data.parquet", use_dictionary=False, **options)
    said, peak = prep(tmp_path, "data.parquet", model_dir, refused=True)
    assert f"the column `{column}" in said
    assert "64 MiB" in said
    assert row is None or f"data.parquet:{row}:" in said
    assert peak < 400


def test_a_page_that_is_too_large_is_not_unpacked(model_dir: Path, tmp_path: Path) -> None:
    rows = [{"instruction": "q", "output": "x" * 5_000_000}] * 60
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet", use_dictionary=False)
    said, peak = prep(tmp_path, "data.parquet", model_dir, refused=True)
    assert "page of 286 MiB in its column `output`, from row 1 on" in said
    assert peak < MOST_MIB


@pytest.mark.slow
def test_a_dictionary_that_is_too_large_is_blamed_on_no_row(model_dir: Path, tmp_path: Path) -> None:
    rows = [{"instruction": "q", "output": "x" * 80_000_000}] * 3
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    said, peak = prep(tmp_path, "data.parquet", model_dir, refused=True)
    assert "data.parquet` has a dictionary of 76 MiB for its column `output`" in said
    assert "use_dictionary=False" in said
    assert peak < MOST_MIB
