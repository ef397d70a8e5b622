"""Shared fixtures. Everything is made at test time or lies in tests/data; nothing is fetched."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

# One thread each where the tests run in several processes (make test), two where they run in one.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Triton's own functions are made for its interpreter or for its compiler when it is imported: for the interpreter here,
# before another library imports it, but not where a GPU is to run them (pytest -m cuda). Nothing else is interpreted:
# tests/model/kernels sets the variable again for itself.
if "cuda" not in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"
    with suppress(ImportError):
        import triton.language  # noqa: F401
    del os.environ["TRITON_INTERPRET"]

# A job in the background of a script is started deaf to Ctrl-C, and so are its children: the tests of it must be heard.
signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST_S = 20.0
"""Seconds that a default test may take on a fast machine; a slow or busy one has as much more as it is slower."""
_TOLERANCE = 1.5
"""Processor time rises by as much where two processes share a core's caches."""
_REFERENCE_S = 0.016
"""What :func:`_reference_work` takes on a fast machine."""


def _reference_work() -> float:
    """Seconds that a fixed amount of work takes now, on this machine with whatever else it is doing."""
    started = time.perf_counter()
    for _ in range(1_000_000):
        pass
    return time.perf_counter() - started


_CPU_STARTED = pytest.StashKey[float]()


def _cpu_seconds() -> float:
    """Of this process and of the children that have ended: other load on the machine does not count."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    item.stash[_CPU_STARTED] = _cpu_seconds()
    yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A default test that takes too long fails: it belongs to the slow ones, or needs less data."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    exempt = item.get_closest_marker("slow") or item.get_closest_marker("cuda")
    if report.when != "call" or not report.passed or exempt or report.duration <= LONGEST_S:
        return
    took = min(report.duration, _cpu_seconds() - item.stash[_CPU_STARTED])
    slower = max(1.0, max(_reference_work() for _ in range(5)) / _REFERENCE_S)
    if took > _TOLERANCE * LONGEST_S * slower:
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} took {took:.0f} s: more than {_TOLERANCE} × {LONGEST_S:.0f} s × {slower:.1f}, by which this machine is "
            "slower now than a fast one. Mark it slow, or make it shorter."
        )


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder: a random Qwen3 of a few thousand parameters, with the test tokenizer and its template."""
    import tiny

    return tiny.model_folder(tmp_path_factory.mktemp("model"))
