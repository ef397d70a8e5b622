"""A rank is killed at any moment after the ranks have met: the others end with a message that names it, and the next start ends as
if nothing had happened, whether the base is shared out or not. (Before they have met, the launcher ends the others.)"""

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

OF_EACH = 5
"""Cases of each kind of ``kill_run.KINDS``: 20 in all."""


@pytest.mark.slow
def test_a_rank_killed_at_any_moment(tmp_path: Path) -> None:
    data = random_dataset(tmp_path / "p", 40, vocab=tiny.VOCAB, longest=40, seed=6)
    for name, make in tiny.MODELS.items():
        tiny.save(make(num_hidden_layers=4), tmp_path / "models" / name)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'python'}:{TESTS}"}
    done = subprocess.run(
        [sys.executable, TESTS / "kill_run.py", data.path, tmp_path / "models", tmp_path / "runs", str(OF_EACH)],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) == 4 * OF_EACH
    for case in cases:
        assert len(case["others"]) == case["world"] - 1, f"the others did not end in time: {case}"
        if not case["finished"]:
            assert case["others"] == [1] * (case["world"] - 1), case
            assert f"rank {case['victim']} ended without an error message" in case["said"], case
            assert case["said"].count("ended without an error message") == 1, case
            assert "Traceback" not in case["said"], case
        assert case["again"] == [0] * case["world"], case
        assert case["same"], case
    on_their_way = [case for case in cases if case["checkpoints"] and not case["finished"]]
    assert len(on_their_way) >= 5, "few were killed on their way"
    assert {case["world"] for case in on_their_way} == {2, 4}
