"""A sample of every campaign, in one process that imports torch once; ``make reliability`` runs all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT, TESTS
from reliability.campaigns import CAMPAIGNS
from reliability.corpus import CORPUS
from reliability.record import Record, Result, Tally, first_lines, sampled
from reliability.report import write
from reliability.table import ROWS


@pytest.mark.slow
def test_every_case_of_the_sample_holds(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "python"), str(TESTS)))}
    command = [sys.executable, "-m", "reliability", "--sample", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    printed = done.stdout + done.stderr
    for campaign in CAMPAIGNS:
        tally = Record(tmp_path, campaign.name).read()
        assert not tally.failures, "\n".join(first_lines(tally.failures, 20))
        assert len(tally.results) == min(campaign.sample, tally.of), f"{campaign.name}: {printed[-3000:]}"
        assert tally.of > 0 or "no faults in calls" in printed, f"{campaign.name}: {printed[-3000:]}"
    assert done.returncode == 0, printed[-3000:]


def test_every_campaign_has_its_row() -> None:
    assert [row.campaign for row in ROWS] == [campaign.name for campaign in CAMPAIGNS]


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    names = [entry.name for entry in CORPUS]
    assert len(names) == len(set(names)) >= 229
    words = {word.split()[0] for entry in CORPUS for word in entry.expect.split("|")}
    assert words <= {"taken", "drop", "refused"}


def test_a_sample_is_spread_over_all_cases() -> None:
    names = [str(n) for n in range(100)]
    assert sampled(names, 3) == {"0", "50", "99"}
    assert sampled(names, 200) == set(names)


def test_results_are_kept_and_the_last_one_counts(tmp_path: Path) -> None:
    record = Record(tmp_path, "x")
    record.add(Result("gone", "failed", "why", 1.0))
    record.total({"a", "b"})
    record.add(Result("a", "failed", "why", 1.0))
    record.add(Result("b", "", "2 kills", 30.0))
    assert (record.read().held, record.read().complete, record.read().ways()) == (1, True, "FAILED: 1, kills: 1")
    record.add(Result("a", "", "identical", 1.0))
    assert record.read().held == 2
    record.total({"b"})
    assert [(r.case, r.seconds) for r in record.read().results] == [("b", 30.0)]
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]
    assert not Tally((), 0).failures


def test_a_page_says_what_was_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reliability import report

    page = tmp_path / "page.md"
    monkeypatch.setattr(report, "PAGE", page)
    assert write(tmp_path / "results") == 1
    assert page.read_text().count("| not run |") == len(ROWS)
