"""A rank is killed at any moment after the ranks have met: the others end with a message, and the next start ends as if
nothing had happened. (Before they have met, the launcher ends the others.)"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from paths import ROOT, TESTS
from prepared import random_dataset


@pytest.mark.slow
def test_a_rank_killed_at_any_moment(tmp_path: Path) -> None:
    data = random_dataset(tmp_path / "p", 40, vocab=tiny.VOCAB, longest=40, seed=6)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'python'}:{TESTS}"}
    done = subprocess.run(
        [sys.executable, TESTS / "kill_run.py", data.path, tmp_path, "20"],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) == 20
    for case in cases:
        assert len(case["others"]) == 1, f"the other rank did not end in time: {case}"
        if not case["finished"]:
            assert case["others"] == [1], case
            assert case["said"].count("ended without saying why") == 1, case
            assert "Traceback" not in case["said"], case
        assert case["again"] == [0, 0], case
        assert case["same"], case
    assert sum(bool(case["checkpoints"]) and not case["finished"] for case in cases) >= 5, (
        "few were killed on their way"
    )
