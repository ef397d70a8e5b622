"""A process that dies at any of its writes: fsync, rename, unlink, mkdir, chmod."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from qlora_fast import atomic_io

T = TypeVar("T")


class Crash(BaseException):
    """Stands for the power going off: nothing catches it."""


class Dying:
    """Every fsync, rename, unlink, mkdir and chmod is a place to die; dead is dead, nothing happens after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.at = 0, 10**9
        monkeypatch.setattr(os, "fsync", self._counted(os.fsync))
        for name in ("rename", "replace", "unlink", "mkdir", "chmod"):
            monkeypatch.setattr(Path, name, self._counted(getattr(Path, name)))
        monkeypatch.setattr(atomic_io.shutil, "rmtree", self._counted(shutil.rmtree))

    def _counted(self, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **more: object) -> object:
            self.calls += 1
            if self.calls >= self.at:
                raise Crash
            return real(*args, **more)

        return call

    def call(self, work: Callable[[], T], at: int = 10**9) -> T:
        """Do some work, and die at its write number ``at``.

        Raises:
            Crash: it died.
        """
        self.calls, self.at = 0, at
        try:
            return work()
        finally:
            self.at = 10**9
