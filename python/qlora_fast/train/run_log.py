"""``trainer_log.jsonl``: one line per log entry, in step with what the run has kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from qlora_fast import atomic_io
from qlora_fast.errors import StorageError
from qlora_fast.runs import layout
from qlora_fast.train.progress import Log

log = logging.getLogger(__name__)


class RunLog:
    """Appends to the log of a run. An entry that cannot be written is made up for with the next one."""

    def __init__(self, output: Path, updates: int) -> None:
        self._path, self._updates = output / layout.LOG, updates
        self._behind = False

    def start(self, history: Sequence[Log]) -> None:
        """Begin with these entries: those of a checkpoint, without what a killed run logged after it.

        Raises:
            StorageError: it cannot be written.
        """
        if history or self._path.exists():
            atomic_io.write_text(self._path, self._lines(history))

    def append(self, history: Sequence[Log]) -> None:
        """Write the newest entry of ``history``; all of them, where an earlier one could not be written."""
        try:
            if self._behind:
                atomic_io.write_text(self._path, self._lines(history))
            else:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(self._lines(history[-1:]))
            self._behind = False
        except (OSError, StorageError) as error:
            if not self._behind:
                log.warning("`%s` is not written: %s; training continues", self._path, error)
            self._behind = True

    def _lines(self, history: Sequence[Log]) -> str:
        return "".join(atomic_io.json_text({**entry, "total_steps": self._updates}) + "\n" for entry in history)
