"""``make reliability``: run the campaigns and write docs/reliability.md.

    PYTHONPATH=tests python -m reliability [CAMPAIGN …] [--again] [--sample] [--seconds N] [--failed] [--report]
        [--results FOLDER]

Without words, every campaign that is not complete yet is continued; ``--again`` begins at its start, ``--failed`` repeats
what did not hold, ``--sample`` runs a few cases of each. The results lie in target/reliability or the named folder, a line
for each case; only the former become docs/reliability.md, unless ``--report`` asks for it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from paths import ROOT
from reliability import shim
from reliability.campaigns import CAMPAIGNS
from reliability.case import Campaign, Case, Failure
from reliability.record import Record, Result, first_lines, sampled

RESULTS = ROOT / "target" / "reliability" / "results"


def main() -> int:
    names = [campaign.name for campaign in CAMPAIGNS]
    parser = argparse.ArgumentParser(
        prog="reliability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("campaigns", nargs="*", metavar="CAMPAIGN", help=", ".join(names))
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--failed", action="store_true", help="repeat only what failed")
    parser.add_argument(
        "--sample", action="store_true", help="a few cases of each campaign, results in a folder of their own"
    )
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so many")
    parser.add_argument(
        "--report", action="store_true", help="write docs/reliability.md from the results that are there"
    )
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where results are kept")
    words = parser.parse_args()
    results = words.results or (RESULTS.with_name("sample") if words.sample else RESULTS)
    if unknown := set(words.campaigns) - set(names):
        parser.error(f"no campaign {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if not words.report:
        _with_faults()
    from reliability.report import write

    if words.report:
        return write(results)
    chosen = [c for c in CAMPAIGNS if not words.campaigns or c.name in words.campaigns]
    failed = _run(chosen, words, results)
    if results == RESULTS:
        write(results)
    return failed


def _with_faults() -> None:
    """Start this program again with the library of faults in front, unless it is there."""
    try:
        library = shim.library()
    except shim.UnavailableError as why:
        print(f"no faults in calls: {why}; the campaigns that need them are left out", flush=True)
        return
    if not shim.loaded():
        os.environ["LD_PRELOAD"] = f"{library} {os.environ.get('LD_PRELOAD', '')}".strip()
        os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        os.execv(sys.executable, [sys.executable, "-m", "reliability", *sys.argv[1:]])


def _run(chosen: list[Campaign], words: argparse.Namespace, folder: Path) -> int:
    from reliability.world import World

    end = time.monotonic() + words.seconds
    scratch = Path(tempfile.mkdtemp(prefix="reliability-", dir=_memory()))
    failed = 0
    try:
        world = World(scratch / "world")
        for campaign in chosen:
            record = Record(folder, campaign.name)
            if words.again or words.sample:
                record.forget()
            cases = list(campaign.cases(world))
            record.total({case.name for case in cases})
            _run_campaign(campaign, cases, record, words, end)
            tally = record.read()
            failed += len(tally.failures)
            _say(campaign.name, f"{tally.held} of {len(tally.results)} hold ({len(cases)} in all): {tally.ways()}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return int(failed > 0)


def _memory() -> str | None:
    """Where flushing costs nothing: a folder in memory, if there is one with some space; else the usual one."""
    place = Path("/dev/shm")
    return str(place) if place.is_dir() and shutil.disk_usage(place).free > 4 << 30 else None


def _run_campaign(campaign: Campaign, cases: list[Case], record: Record, words: argparse.Namespace, end: float) -> None:
    before = {r.case: r for r in record.read().results}
    wanted = sampled([case.name for case in cases], campaign.sample) if words.sample else {case.name for case in cases}
    todo = [c for c in cases if c.name in wanted and (c.name not in before or (words.failed and before[c.name].failed))]
    shown = time.monotonic()
    for number, case in enumerate(todo):
        if time.monotonic() > end:
            _say(campaign.name, f"time is up, {len(todo) - number} cases are left")
            return
        result = _result(case)
        record.add(result)
        if result.failed:
            _say(campaign.name, *first_lines([result], 1))
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            _say(campaign.name, f"{number + 1} of {len(todo)}")


def _result(case: Case) -> Result:
    started = time.monotonic()
    try:
        failed, note = "", case.check()
    except Failure as failure:
        failed, note = failure.kind, failure.detail
    except Exception as error:  # a fault of the harness fails its case, not the hours of the others
        failed, note = "harness", f"{type(error).__name__}: {error}"[:300]
    return Result(case.name, failed, note, round(time.monotonic() - started, 3))


def _say(campaign: str, text: str) -> None:
    print(f"{campaign:<14} {text}".encode("ascii", "backslashreplace").decode(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
