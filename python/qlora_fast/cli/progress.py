"""Progress on stderr: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qlora_fast.cli import console, escape

if TYPE_CHECKING:
    from rich.progress import Progress

Tick = Callable[[str, int, int], None]
_PLAIN_EVERY_S = 5.0
_BAR_AFTER_S = 0.5


@contextmanager
def shown(unit: str = "bytes", waiting: str = "") -> Iterator[Tick]:
    """A tick function ``(stage, done, total)``: a bar on a terminal, a line every few seconds elsewhere.

    Nothing is shown for work that ends within half a second. ``waiting`` is what is done before the first tick, where
    that alone takes seconds (torch is imported, a model loaded): a terminal shows it at once.
    """
    yield from _bar(unit, escape.line(waiting)) if console.on_terminal() else _lines(unit)


def _bar(unit: str, waiting: str) -> Iterator[Tick]:
    bar: Any = None
    task: Any = None
    started = time.monotonic()
    status: Any = console.rich().status(console.without_markup(waiting)) if waiting else None
    if status is not None:
        status.start()

    def tick(stage: str, done: int, total: int) -> None:
        nonlocal bar, task
        if status is not None:
            status.stop()
        if bar is None:
            if time.monotonic() - started <= _BAR_AFTER_S:
                return
            bar = _progress_bar(unit)
            task = bar.add_task(_shown(stage), completed=done, total=total or None)
            bar.start()
        bar.update(task, description=_shown(stage), completed=done, total=total or None)

    try:
        yield tick
    finally:
        for line in (status, bar):
            if line is not None:
                line.stop()


def _progress_bar(unit: str) -> Progress:
    # Imported when there is something to show: quick work does not wait for it.
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amount = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn())
    return Progress(*columns, console=console.rich(), transient=True)


def _lines(unit: str) -> Iterator[Tick]:
    last = time.monotonic()

    def tick(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PLAIN_EVERY_S:
            last = now
            console.note(f"{stage}: {_amount(done, total, unit)}")

    yield tick


def _amount(done: int, total: int, unit: str) -> str:
    return f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB" if unit == "bytes" else f"{done:,} of {total:,} {unit}"


def _shown(stage: str) -> str:
    """A stage's name as a bar shows it."""
    return console.without_markup(escape.line(stage))


class UpdateBar:
    """A bar of optimizer steps at the bottom of a terminal, with log lines above it."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def line(self, text: str) -> None:
        self._progress.console.print(console.without_markup(escape.line(text)))

    def update(self, done: int, total: int) -> None:
        self._progress.update(self._task, description="training", completed=done, total=total)

    def stage(self, stage: str, done: int, total: int) -> None:
        """What is done before the first optimizer step, on the same line: two bars at once would overwrite each other."""
        share = f" {done / total:.0%}" if total else ""
        self._progress.update(self._task, description=f"{_shown(stage)}{share}")


@contextmanager
def update_bar() -> Iterator[UpdateBar]:
    """Show an :class:`UpdateBar` while the block runs."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # An optimizer step may take a minute: rich's default window of half a minute is too short to estimate the rest.
    with Progress(*columns, console=console.rich(), transient=True, speed_estimate_period=1800) as progress:
        yield UpdateBar(progress, progress.add_task("loading", total=None))
