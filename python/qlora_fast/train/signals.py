"""Ctrl-C and SIGTERM, heard between two updates."""

from __future__ import annotations

import contextlib
import logging
import signal
from types import FrameType, TracebackType
from typing import Any

log = logging.getLogger(__name__)

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While entered, the first signal is only noted in ``requested``; the second ends the program at once.

    Args:
        tell: say so when the first one comes. An update may take a minute, in which nothing else would seem to happen.
    """

    def __init__(self, *, tell: bool = True) -> None:
        self.requested = False
        self._tell = tell
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        try:
            self._before = {number: signal.signal(number, self._note) for number in _NUMBERS}
        except ValueError:
            # Outside the main thread Python hears no signals: they are the caller's business.
            self._before = {}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # A handler may come in the middle of another line; stderr refuses a second one inside it then.
        with contextlib.suppress(RuntimeError):
            if self._tell:
                log.info(
                    "stopping: a checkpoint is written after this update; a second Ctrl-C ends at once, without one"
                )
