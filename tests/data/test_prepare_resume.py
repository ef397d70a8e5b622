"""A preparation that is killed, interrupted or divided ends with the bytes of one that was left alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cli_run import arguments, environment
from oracle import TOKENIZER
from qlora_fast import _core
from qlora_fast.errors import ArtifactError

ROWS = 6000
PART_BYTES = 20_000
PREPARE = "import json, sys; from qlora_fast import _core; _core.prepare(json.loads(sys.argv[1]))"
SHARE = "import json, sys; from qlora_fast import _core; _core.prepare_share(*map(json.loads, sys.argv[1:]))"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An array and lines, about 1.5 MB; some rows are dropped, some cut."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {
            "instruction": f"Question {i}",
            "input": "word " * (i % 60),
            "output": "" if i % 97 == 0 else f"answer {i} " * (1 + i % 37),
        }
        for i in range(ROWS)
    ]
    array, lines = folder / "array.json", folder / "lines.jsonl"
    array.write_text(json.dumps(rows[: ROWS // 2], indent=1))
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows[ROWS // 2 :]))
    return [str(array), str(lines)]


def options(data: list[str], out: Path) -> Any:
    return {
        "data": data,
        "tokenizer": str(TOKENIZER),
        "template": "qwen3",
        "cutoff_len": 128,
        "threads": 2,
        "part_bytes": PART_BYTES,
        "out": str(out),
    }


@pytest.fixture(scope="module")
def expected(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("whole") / "out"
    _core.prepare(options(data, out))
    found = hashes(out)
    assert len(found) > 50
    return found


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def start(code: str, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *words], env=environment(), stderr=subprocess.PIPE)


def working_folder(parent: Path) -> Path | None:
    return next(parent.glob(".out.*.partial"), None)


def parts_done(parent: Path) -> int:
    folder = working_folder(parent)
    return sum("-" in p.name for p in (folder / "parts").glob("*.json")) if folder else 0


def wait_until(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    while process.poll() is None and not reached():
        time.sleep(0.001)


def stops() -> Iterator[int]:
    """So many parts more are to be done before the next kill: none, one, a few, many."""
    yield from (0, 1, 2, 5, 9, 3, 12)


def test_a_killed_preparation_goes_on_and_ends_with_the_same_bytes(
    data: list[str], expected: dict[str, str], tmp_path: Path
) -> None:
    job = options(data, tmp_path / "out")
    killed = 0
    for more in stops():
        goal = parts_done(tmp_path) + more
        process = start(PREPARE, json.dumps(job))
        wait_until(process, lambda goal=goal: working_folder(tmp_path) is not None and parts_done(tmp_path) >= goal)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        folder = working_folder(tmp_path)
        if folder is None:
            break
        # What has its name is whole, whenever the kill came.
        for shard in folder.glob("*.safetensors"):
            assert expected[shard.name] == sha256(shard.read_bytes()).hexdigest()
    assert killed >= 3
    before = parts_done(tmp_path)
    report = _core.prepare(job)
    assert before > 0
    assert report["rows_read"] == ROWS
    assert hashes(tmp_path / "out") == expected
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_shares_made_at_the_same_time_merge_to_the_same_bytes(
    data: list[str], expected: dict[str, str], tmp_path: Path
) -> None:
    job = options(data, tmp_path / "out")
    processes = [start(SHARE, json.dumps(job), str(number), "3") for number in (1, 2)]
    assert [p.wait() for p in processes] == [0, 0]
    with pytest.raises(ArtifactError, match=r"is not complete: .* parts of"):
        _core.merge(job)
    killed = start(SHARE, json.dumps(job), "3", "3")
    wait_until(killed, lambda: parts_done(tmp_path) > len(expected) * 3 // 4)
    killed.kill()
    killed.wait()
    _core.prepare_share(job, 3, 3)
    report = _core.merge(job)
    assert (report["engine"]["reason"], report["reused"]) == ("parts were joined", False)
    assert hashes(tmp_path / "out") == expected
    assert _core.prepare_share(job, 1, 3)["path"] == str(tmp_path / "out")


def test_two_processes_that_prepare_the_same_do_it_once(
    data: list[str], expected: dict[str, str], tmp_path: Path
) -> None:
    job = options(data, tmp_path / "out")
    processes = [start(PREPARE, json.dumps(job)) for _ in range(2)]
    assert [p.wait() for p in processes] == [0, 0]
    assert hashes(tmp_path / "out") == expected
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_ctrl_c_keeps_what_is_done_and_says_so(data: list[str], tmp_path: Path, model_dir: Path) -> None:
    # Long enough that a signal comes before the end.
    many = tmp_path / "many.jsonl"
    many.write_text(Path(data[1]).read_text() * 20)
    words = ["prep", str(many), f"model_name_or_path={model_dir}", "cutoff_len=128", "--out", "out"]
    code = (
        "import sys; from qlora_fast.data import prepare; from qlora_fast.cli import main;"
        f"prepare.PART_BYTES = {PART_BYTES}; sys.argv[1:] = {words!r}; main()"
    )
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE
        )
        wait_until(process, lambda: parts_done(tmp_path) >= 3)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1].decode()
        if not (tmp_path / "out").exists():
            break
        # The signal came after the last rename: all is done, and nothing was there to keep.
        shutil.rmtree(tmp_path / "out")
    assert process.returncode == 130
    folder = working_folder(tmp_path)
    assert folder is not None
    assert f"what is done is kept in `{folder.name}`" in said
    assert len(said.strip().splitlines()) == 1, said
    assert not list(folder.glob("*.tmp"))


@pytest.mark.parametrize(
    "words", [["--shard", "0/3"], ["--shard", "4/3"], ["--shard", "x"], ["--shard", "1/2", "--merge"]]
)
def test_shares_that_make_no_sense_are_refused(words: list[str], data: list[str], tmp_path: Path) -> None:
    ran = subprocess.run(
        arguments("prep", *data, *words), cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2, ran
    assert "Traceback" not in ran.stderr
    assert os.listdir(tmp_path) == []
