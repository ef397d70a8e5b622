"""A sample of every campaign, in one process that imports torch once; ``make reliability`` runs all of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from paths import ROOT, TESTS
from reliability.campaigns import CAMPAIGNS
from reliability.corpus import CORPUS
from reliability.record import Record, Result, Tally, first_lines, sampled
from reliability.report import write
from reliability.table import ROWS

SAMPLE = ROOT / "target" / "reliability" / "sample"


@pytest.fixture(scope="module")
def ran() -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "python"), str(TESTS)))}
    command = [sys.executable, "-m", "reliability", "--sample"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda c: c.name)
def test_every_case_of_the_sample_holds(campaign: object, ran: str) -> None:
    tally = Record(SAMPLE, campaign.name).read()  # type: ignore[attr-defined]
    if not tally.of and "no faults in calls" in ran:
        pytest.skip(ran.splitlines()[0])
    assert tally.results, ran[-3000:]
    assert not tally.failures, "\n".join(first_lines(tally.failures, 20))


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


def test_results_are_kept_and_the_last_one_counts(tmp_path: object) -> None:
    record = Record(tmp_path, "x")  # type: ignore[arg-type]
    record.add(Result("gone", "stuck", "why", 1.0))
    record.total({"a", "b"})
    record.add(Result("a", "stuck", "why", 1.0))
    record.add(Result("b", "", "2 kills", 30.0))
    assert (record.read().held, record.read().complete, record.read().ways()) == (1, True, "STUCK: 1, kills: 1")
    record.add(Result("a", "", "identical", 1.0))
    assert record.read().held == 2
    assert not Tally((), 0).failures


def test_a_page_says_what_was_not_run(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from reliability import report

    page = ROOT / "target" / "reliability" / "page.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(report, "PAGE", page)
    assert write(tmp_path) == 1  # type: ignore[arg-type]
    assert page.read_text().count("| not run |") == len(ROWS)
