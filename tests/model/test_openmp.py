"""Threads spin while cores are idle, and sleep at once while other processes want them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from qlora_fast.model import openmp

_LINUX = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores and Linux"
)

# Processor time of operations that are followed by a pause: threads that spin through the pause take it, others do not.
_SCRIPT = """
import json, os, statistics, time, torch
from qlora_fast.model import openmp

with open("/proc/self/maps") as maps:
    libraries = {os.path.basename(line.split()[-1]) for line in maps if "/" in line}
gnu = any(name.startswith("libgomp") for name in libraries)
others = any(name.startswith(("libomp", "libiomp")) for name in libraries)

def milliseconds():
    x, began = torch.empty(1 << 18), time.process_time()
    for _ in range(12):
        x.fill_(1.0)
        time.sleep(0.01)
    return (time.process_time() - began) / 12 * 1e3

found = {"spinning": [], "with a team": [], "without it again": []}
for turn in range(3):
    found["spinning"].append(milliseconds())
    team = openmp._IdleTeam()
    found["with a team"].append(milliseconds())
    team.leave()
    found["without it again"].append(milliseconds())
print(json.dumps({
    "why": str(openmp.waiting()), "only libgomp": gnu and not others, "schedstat": os.path.exists("/proc/self/schedstat"),
    **{name: statistics.median(turns) for name, turns in found.items()},
}))
"""


def _run(script: str, **settings: str) -> dict[str, float | str]:
    environment = {k: v for k, v in os.environ.items() if k not in (*openmp.SETTINGS, "OMP_NUM_THREADS")}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment | settings, capture_output=True, text=True, check=True
    )
    out: dict[str, float | str] = json.loads(ran.stdout)
    return out


@_LINUX
def test_an_idle_team_ends_the_spinning_and_its_end_brings_it_back() -> None:
    # As many threads as processors: torch by itself may take only as many as there are physical cores.
    seen = _run(_SCRIPT, OMP_NUM_THREADS=str(len(os.sched_getaffinity(0))))
    for needed in ("only libgomp", "schedstat"):
        if not seen[needed]:
            pytest.skip(f"nothing to decide here: {needed} is false")
    assert str(seen["why"]).startswith("spinning, and")
    spinning, team, again = (float(seen[k]) for k in ("spinning", "with a team", "without it again"))
    assert team < spinning / 3
    assert team < again / 3


@_LINUX
@pytest.mark.parametrize("setting", [{"OMP_WAIT_POLICY": "passive"}, {"GOMP_SPINCOUNT": "1000"}])
def test_what_the_user_set_is_left_alone(setting: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    found = openmp.waiting()
    assert not found.watched
    assert all(f"{name}={value}" in str(found) for name, value in setting.items())


def test_it_decides_by_how_long_threads_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    teams: list[str] = []

    class Team:
        def __init__(self) -> None:
            teams.append("came")

        def leave(self) -> None:
            teams.append("left")

    monkeypatch.setattr(openmp, "_IdleTeam", Team)
    watcher = openmp.Considerate()
    for share, calm, yielding in (
        (0.02, 9.0, False),  # alone
        (0.30, 0.0, True),  # a neighbour
        (0.30, 0.0, True),
        (0.05, 0.0, True),  # less, but still there
        (0.01, 1.0, True),  # gone for a moment
        (0.01, 2.5, False),  # gone
        (0.09, 0.0, False),  # the odd process
    ):
        watcher._decide(share, calm)
        assert (watcher._team is not None) == yielding
    assert teams == ["came", "left"]


def test_without_what_linux_tells_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in openmp.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(openmp.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(openmp, "_team", lambda: 2)
    monkeypatch.setattr(openmp, "_runtime", lambda: "libgomp")
    monkeypatch.setattr(openmp, "_waited", lambda: None)
    assert not openmp.waiting().watched
    monkeypatch.setattr(openmp, "_waited", lambda: 1.0)
    assert openmp.waiting().watched
    for name, value, why in (
        ("_runtime", lambda: "libiomp", "KMP_BLOCKTIME"),
        ("_runtime", lambda: None, "unknown"),
        ("_team", lambda: 5, "cores for others"),
    ):
        with monkeypatch.context() as other:
            other.setattr(openmp, name, value)
            assert not openmp.waiting().watched
            assert why in str(openmp.waiting())


@pytest.mark.parametrize("fails", ["look", "team"])
def test_a_watcher_that_fails_leaves_its_team_and_the_run_goes_on(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bool] = []
    waited = iter((0.0, 1e6))

    class Team:
        def __init__(self) -> None:
            if fails == "team":
                raise RuntimeError("can't start new thread")

        def leave(self) -> None:
            left.append(True)

    def look() -> float:
        seconds = next(waited, None)
        if seconds is None:
            raise OSError(24, "Too many open files")
        return seconds

    monkeypatch.setattr(openmp, "_LOOK_S", 0.001)
    monkeypatch.setattr(openmp, "_IdleTeam", Team)
    monkeypatch.setattr(openmp, "_waited", look)
    watcher = openmp.Considerate()
    watcher.start()
    watcher._thread.join(10)
    assert not watcher._thread.is_alive()
    assert left == ([True] if fails == "look" else [])
    watcher.stop()


def test_on_a_gpu_nothing_is_watched() -> None:
    import torch

    with openmp.considerate(torch.device("cuda")) as watcher:
        assert watcher is None
