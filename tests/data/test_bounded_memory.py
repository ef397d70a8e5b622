"""The promise about memory, for every kind of file: the peak of the whole process does not grow with the data."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli_run import arguments, environment

ROWS = 200_000
MOST_MIB = 150
"""Twice what the program takes for a handful of rows; the text alone is more."""
# A process of its own between: a child's peak begins with what its parent holds, and pytest holds much.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
"""


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
    words = arguments("prep", "data", f"model_name_or_path={model_dir}", "--json")
    command = [sys.executable, "-c", PEAK, *words]
    ran = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert json.loads(ran.stderr)["rows_kept"] == ROWS
    assert int(ran.stdout) < MOST_MIB
