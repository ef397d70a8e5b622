"""Which ranks the others have been waiting for, for so long that it should be looked into. No torch.

Each rank counts the collectives that it has come to, and the watch of :mod:`~qlora_fast.train.failing` passes the counts
around. Who stays behind the furthest one is late; whether it computes, writes or hangs is for the user to find out.
"""

from __future__ import annotations

LATE_S = 60.0
"""Seconds behind the others before it is reported: a checkpoint or a long row is faster."""


class Lateness:
    """Follows the counts of all ranks."""

    def __init__(self) -> None:
        self._since: dict[int, tuple[int, float]] = {}
        self._reported: dict[int, int] = {}

    def late(self, counts: dict[int, int], now: float) -> list[int]:
        """The ranks that have become late, each once per wait.

        Args:
            counts: collectives that each rank has come to. now: seconds of a monotonic clock.
        """
        furthest = max(counts.values(), default=0)
        found = []
        for rank, count in counts.items():
            if count == furthest:
                self._since.pop(rank, None)
                continue
            last, when = self._since.get(rank, (-1, now))
            if last != count:
                self._since[rank] = (count, now)
            elif now - when > LATE_S and self._reported.get(rank) != count:
                self._reported[rank] = count
                found.append(rank)
        return found


def named(ranks: list[int]) -> str:
    """Ranks in a message."""
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
