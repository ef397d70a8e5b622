"""tests/cuda, each test's end reported when it comes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from benches.gpu.report import Report, item
from benches.gpu.runner import ROOT


class _Watch:
    """A pytest plugin that reports what did not pass, and counts what did."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.outcomes: dict[str, int] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.outcome] = self.outcomes.get(report.outcome, 0) + 1
            if report.outcome != "passed":
                name = report.nodeid.rsplit("::", 1)[-1]
                self._report.row(
                    report.outcome == "failed", test=name, outcome=report.outcome, why=_why(report.longrepr)
                )

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            last = str(report.longrepr).strip().splitlines()[-1]
            self._report.row(True, test=report.nodeid, outcome="not collected", why=last[:160])


def _why(told: Any) -> str:
    """The error's own line of what pytest tells, or the reason of a skip."""
    if isinstance(told, tuple):
        return str(told[2])
    crash = getattr(told, "reprcrash", None)
    lines = str(told if crash is None else crash.message).strip().splitlines()
    return lines[0][:160] if lines else ""


def measure(report: Report, tiny: bool) -> None:
    """The tests that need a GPU."""
    import pytest

    # Before tests/conftest.py has Triton's functions made for its interpreter.
    with suppress(ImportError):
        import triton.language  # noqa: F401

    watch = _Watch(report)
    chosen = ["-k", "isolated or finite"] if tiny else []
    # Without the project's own options: they name plugins that a bare machine need not have.
    words = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "-m", "cuda", *chosen, str(ROOT / "tests" / "cuda")]
    pytest.main(words, plugins=[watch])
    counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(watch.outcomes.items())) or "none ran"
    report.note(counts, wrong=not watch.outcomes.get("passed"))


if __name__ == "__main__":
    item(measure)
