"""An evaluation by two processes that share the base has the scores of one that holds it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli_run import environment
from parameter_run import maker

SCORES = ("eval_loss", "eval_loss_hf", "perplexity", "eval_accuracy", "eval_samples", "eval_tokens", "data")


def evaluated(run: Path, *launcher: str | Path, words: tuple[str, ...] = ()) -> dict[str, Any]:
    command = [*launcher, "-m", "qlora_fast.cli", "evaluate", run, "--json", *words]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout)  # one rank prints, once
    return told


@pytest.mark.slow
def test_two_processes_that_share_the_base_score_as_one(model_dir: Path, tmp_path: Path) -> None:
    run = maker(model_dir, tmp_path)(eval_strategy="epoch").folder
    alone = evaluated(run, sys.executable)
    scores = (run / "eval_samples.jsonl").read_text()
    torchrun = (Path(sys.executable).parent / "torchrun", "--standalone", "--nproc-per-node", "2")
    shared = evaluated(run, *torchrun, words=("shard_base=world",))
    assert {name: shared[name] for name in SCORES} == pytest.approx({name: alone[name] for name in SCORES})
    assert len((run / "eval_samples.jsonl").read_text().splitlines()) == len(scores.splitlines())
