"""`make gpu`, rehearsed: every item runs whole on the null GPU, so that the ten minutes on a real one are not spent on a typo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from benches.gpu import site
from benches.gpu.runner import Runner
from benches.gpu.schedule import ITEMS, TOTAL_SECONDS, Item, chosen
from benches.gpu.table import failed, table

from nullgpu import stubs
from paths import ROOT

GOOD = "import json; print(json.dumps({'row': {'run': 'a', 'tokens/s': 12345.6}}), flush=True)"
SLOW = GOOD + "; import time; time.sleep(60)"
BROKEN = GOOD + "; print('chatter'); raise SystemExit('it broke here')"


def run(
    folder: Path, programs: dict[str, str], seconds: float = 30.0, each: int = 20
) -> tuple[list[dict[str, object]], str]:
    """The records and the table of items that are these programs."""
    items = [Item(name, each, f"shows {name}") for name in programs]
    runner = Runner(folder, seconds, command=lambda item: [sys.executable, "-c", programs[item.name]])
    runner.run(items, lambda _: None)
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert lines == runner.records, "what is known is on disk"
    return runner.records, table(runner.records, items)


def test_the_items_fit_into_ten_minutes() -> None:
    assert sum(item.seconds for item in ITEMS) <= TOTAL_SECONDS <= 560
    assert chosen(["profile", "limits"]) == tuple(i for i in ITEMS if i.name in ("limits", "profile"))
    with pytest.raises(ValueError, match="no item nothing"):
        chosen(["nothing"])


def test_an_item_that_breaks_keeps_its_rows_and_the_others_their_turn(tmp_path: Path) -> None:
    records, text = run(tmp_path, {"first": BROKEN, "second": GOOD})
    assert [(r["item"], r["ended"]) for r in records if "ended" in r] == [("first", "failed"), ("second", "done")]
    assert text.count("| a | 12,346 |") == 2
    assert "it broke here" in text
    assert failed(records, [Item("first", 1, ""), Item("second", 1, "")])


def test_an_item_that_hangs_is_stopped_and_the_next_one_runs(tmp_path: Path) -> None:
    records, text = run(tmp_path, {"first": SLOW, "second": GOOD}, each=3)
    assert [(r["item"], r["ended"]) for r in records if "ended" in r] == [("first", "timed out"), ("second", "done")]
    assert text.count("| a | 12,346 |") == 2


def test_when_the_time_is_over_the_table_says_what_was_not_run(tmp_path: Path) -> None:
    records, text = run(tmp_path, {"first": SLOW, "second": GOOD}, seconds=3)
    assert [r["ended"] for r in records if "ended" in r] == ["timed out", "not run"]
    assert "second: shows second (not run in 0 s, no time left)" in text


def test_a_signal_ends_it_with_a_whole_table_and_nothing_left_running(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from benches.gpu import __main__ as main, runner, schedule
items = (schedule.Item("first", 60, "shows first"), schedule.Item("second", 60, "shows second"))
main.chosen = lambda names: items
real = runner.Runner
main.Runner = lambda out, total, arguments: real(out, total, command=lambda item: [sys.executable, "-c", {SLOW!r}])
sys.argv = ["gpu", "--out", {str(tmp_path)!r}]
sys.exit(main.main())
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    results = tmp_path / "results.jsonl"
    deadline = time.monotonic() + 30
    while not (results.exists() and "12345.6" in results.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "| a | 12,346 |" in out
    assert "first: shows first (stopped" in out
    assert "second: shows second (not run: stopped before it began)" in out
    assert "stopped by SIGTERM" in out
    assert (tmp_path / "table.md").read_text() in out
    assert not _running(SLOW)


def _running(program: str) -> bool:
    """Whether a process with this program lives."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if program in (folder / "cmdline").read_text().split("\0"):
                return True
        except OSError:
            continue
    return False


def test_what_a_bare_machine_lacks_is_unpacked_with_its_own_libraries_only(tmp_path: Path) -> None:
    files = {
        "bitsandbytes-0.50.2-py3-none-any.whl": [
            f"bitsandbytes/libbitsandbytes_{x}.so" for x in ("cpu", "cuda130", "cuda132")
        ],
        "msgspec-0.20.0-cp312-cp312-manylinux.whl": ["msgspec/__init__.py"],
    }
    for name, inner in files.items():
        with zipfile.ZipFile(tmp_path / name, "w") as wheel:
            for file in inner:
                wheel.writestr(file, "")
    assert site.unpack(tmp_path, tmp_path / "site", "130") == ["bitsandbytes-0.50.2", "msgspec-0.20.0"]
    found = sorted(p.name for p in (tmp_path / "site").rglob("*") if p.is_file())
    assert found == ["__init__.py", "libbitsandbytes_cpu.so", "libbitsandbytes_cuda130.so"]


@pytest.mark.slow
def test_every_item_runs_whole(null_gpu: Path, tmp_path: Path) -> None:
    # At 8.9 torch does not choose cuDNN for the rival's attention, and the null GPU has no cuDNN.
    environment = {**stubs.environment(89, zeros=True), "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benches.gpu", "--tiny", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    ended = {r["item"]: (r["ended"], r["why"]) for r in records if "ended" in r}
    assert ended == {item.name: ("done", "") for item in ITEMS}, done.stdout
    rows = {item.name: [r["row"] for r in records if r["item"] == item.name and "row" in r] for item in ITEMS}
    assert "Null GPU" in done.stdout
    assert len(rows["limits"]) >= 4
    assert all(r["outcome"] == "failed" for r in rows["tests"]), "numbers are missing, and nothing else ends a test"
    assert rows["profile"][0]["forward"] > 0
    assert not [r for r in rows["ablation"] if str(r["real tokens/s"]).startswith("failed")]
    assert {r["run"].split(",")[0] for r in rows["large"]} == {"bf16", "NF4"}
    assert len(rows["stock"]) == 1
    assert os.path.getsize(tmp_path / "table.md") > 1000
