"""One training process writes into a run's folder at a time: two would mix their checkpoints."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType

from qlora_fast.errors import ArtifactError

PATIENCE = 5.0
"""Seconds to wait for a process that is just ending, as when a launcher starts a run again."""


class OutputLock:
    """A lock on the folder itself, which the system releases however the process ends. Where the file system has no locks,
    nothing is locked. As a context manager it is released at the end; a folder that is renamed stays locked."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def __enter__(self) -> OutputLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def take(self, folder: Path) -> None:
        """Lock a folder; nothing where there is none yet.

        Raises:
            ArtifactError: another training process holds it.
        """
        if self._descriptor is not None or sys.platform == "win32" or not folder.is_dir():
            return
        import fcntl  # Unix only

        descriptor = os.open(folder, os.O_RDONLY)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(0.1)
                    continue
                os.close(descriptor)
                raise ArtifactError(
                    f"another training process writes into `{folder}`",
                    hint="wait until it ends, or end it; output_dir=… starts another run beside it",
                ) from None
            except OSError:  # a network file system without locks
                os.close(descriptor)
                return
            self._descriptor = descriptor
            return

    def renew(self, folder: Path) -> None:
        """Lock the folder that has this name now; the one before it may have been moved aside."""
        self.release()
        self.take(folder)

    def release(self) -> None:
        """Let others write there."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
