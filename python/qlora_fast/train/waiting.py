"""How long each rank waits for the others, and which one they wait for.

A sum over the ranks begins when the last of them comes to it: who waits least is the slowest. A rank that is always the
slowest has a slower GPU, less cooling, or another process beside it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from qlora_fast.train.distributed import Ranks

log = logging.getLogger(__name__)

_WINDOWS = 3
"""Log intervals after which a rank counts as always the slowest."""
_SHARE = 0.1
"""Of the time that the others have to lose by it, to be worth a warning."""
_SHORT_S = 1.0
"""In a shorter interval it is chance who comes last."""


class Waits:
    """Measures the sums over the ranks of one run.

    Attributes:
        about: for run.json, changed in place: ``waited_s`` (seconds of each rank, by rank), ``seconds`` (measured in all),
            ``slowest_rank``. Empty for one rank, and before the first log step.
    """

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        self.about: dict[str, Any] = {}
        self._ranks, self._on_gpu = ranks, device.type == "cuda"
        self._seconds = 0.0
        self._totals = [0.0] * ranks.world
        self._measured = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._slowest: list[int] = []
        self._warned = False

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Inside, this rank waits for the others. On a GPU nothing is waited for here: events are recorded."""
        if self._ranks.world == 1:
            yield
        elif self._on_gpu:
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            before.record()
            yield
            after.record()
            self._events.append((before, after))
        else:
            started = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - started

    def share(self, seconds: float) -> None:
        """Exchange what was measured in the last ``seconds``. All ranks call it, when the GPU has done what was measured."""
        if self._ranks.world == 1:
            return
        own = self._seconds + sum(before.elapsed_time(after) for before, after in self._events) / 1000
        self._seconds, self._events = 0.0, []
        waited = [float(each) for each in self._ranks.all_gather(torch.tensor(own, dtype=torch.float64))]
        self._totals = [a + b for a, b in zip(self._totals, waited, strict=True)]
        self._measured += seconds
        self.about["waited_s"] = [round(total, 3) for total in self._totals]
        self.about["seconds"] = round(self._measured, 3)
        self.about["slowest_rank"] = self._totals.index(min(self._totals))
        self._warn(waited, seconds)

    def _warn(self, waited: list[float], seconds: float) -> None:
        slowest = waited.index(min(waited))
        lost = (sum(waited) - waited[slowest]) / (len(waited) - 1) - waited[slowest]
        self._slowest = [*self._slowest, slowest if lost > _SHARE * seconds and seconds > _SHORT_S else -1][-_WINDOWS:]
        if self._warned or self._slowest != [slowest] * _WINDOWS:
            return
        self._warned = True
        log.warning(
            "rank %d is the slowest: in the last steps the others waited for it %.0f %% of the time; its GPU may be slower or "
            "in use, see run.json for the seconds of each rank",
            slowest, 100 * lost / max(seconds, 1e-9),
        )  # fmt: skip
