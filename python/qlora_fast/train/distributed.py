"""The ranks of a run: who goes first, what all have to agree on, and sums of gradients and losses.

The processes meet at a store (a small key/value server of torch's), and everything but the sums goes through it:

::

    rank 0   prepares ── sets `turn/1` ── trains ─┐  all_reduce   ┌─ … ── writes ── leaves
    rank 1   looks for `turn/1` ……… ── trains ────┘  an update    └─ … ──────────── leaves
    each     every half second: is every process alive, has one failed? (see failing; and a connection to rank 0, see lifeline)

Waiting means looking at the store, never a barrier: a process inside a collective notices neither a signal nor that the
one it waits for has failed. How a process comes to its ranks is in joining.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qlora_fast.errors import PeerGone, TrainingError
from qlora_fast.train.failing import COLLECTIVE, GRACE_S, LOOK_S

if TYPE_CHECKING:
    from torch import Tensor

    from qlora_fast.model.streamed.gather import Share


@dataclass(slots=True)
class Ranks:
    """The place of this process among those of the run."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    store: Any = field(default=None, repr=False)
    sums: int = field(default=0, repr=False, compare=False)
    """Collectives that this process has come to: the same number on all ranks that are at the same point."""
    machine_size: int = 1
    """Processes of the run on this machine."""
    _turns: int = field(default=0, repr=False, compare=False)

    @property
    def first(self) -> bool:
        """Whether this is the process that prepares, writes and logs."""
        return self.rank == 0

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Rank 0 runs the block, then the first rank of each other machine, then all others.

        What the first has made, the others find: the first of another machine on storage that they share, or it makes the
        same for its own machine.
        """
        if self.world == 1:
            yield
            return
        self._turns += 1
        key = f"turn/{self._turns}"
        if not self.first:
            self._wait(lambda: self.store.check([key]))
        if self.local_rank:
            self._wait(lambda: self.store.check([f"{key}/{self.rank - self.local_rank}"]))
        yield
        if not self.local_rank:
            self.store.set(f"{key}/{self.rank}", "")
            if self.first:
                self.store.set(key, "")

    def from_first(self, make: Callable[[], str]) -> str:
        """What ``make`` gives on rank 0, on all ranks."""
        if self.world == 1:
            return make()
        self._turns += 1
        key = f"turn/{self._turns}"
        if self.first:
            self.store.set(key, make())
        else:
            self._wait(lambda: self.store.check([key]))
        value: bytes = self.store.get(key)
        return value.decode()

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum a tensor over all ranks, in place.

        Raises:
            PeerGone: another rank has ended.
        """
        if self.world == 1:
            return
        import torch.distributed as dist

        with self._together():
            dist.all_reduce(tensor)

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Each rank's tensor, by rank.

        Raises:
            PeerGone: another rank has ended.
        """
        if self.world == 1:
            return [tensor]
        import torch
        import torch.distributed as dist

        # NCCL moves only what lies on a GPU.
        own = tensor.cuda() if dist.get_backend() == "nccl" else tensor
        parts = [torch.empty_like(own) for _ in range(self.world)]
        with self._together():
            dist.all_gather(parts, own)
        return [part.to(tensor.device) for part in parts]

    def from_rank_0(self, tensor: Tensor) -> None:
        """Overwrite a tensor by rank 0's.

        Raises:
            PeerGone: another rank has ended.
        """
        if self.world == 1:
            return
        import torch.distributed as dist

        # NCCL moves only what lies on a GPU.
        moved = tensor.cuda() if dist.get_backend() == "nccl" else tensor
        with self._together():
            dist.broadcast(moved, 0)
        if moved is not tensor:
            tensor.copy_(moved)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Inside, a collective is called.

        Raises:
            PeerGone: another rank has ended. TrainingError: another one has not come to it before the time-out.
        """
        self.sums += 1
        started = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            if time.monotonic() - started < COLLECTIVE.total_seconds():
                raise PeerGone(str(error)) from error
            raise TrainingError(
                f"rank {self.rank} waited {COLLECTIVE.total_seconds() / 60:.0f} minutes for the others",
                hint="the log names the ranks that were behind; resume_from_checkpoint=true resumes from the last checkpoint",
            ) from error

    def any(self, own: bool) -> bool:
        """Whether it is true on any rank."""
        return bool(self.most(int(own)))

    def most(self, count: int) -> int:
        """The largest of the ranks' counts."""
        if self.world == 1:
            return count
        import torch

        return max(int(part) for part in self.all_gather(torch.tensor([count])))

    def share(self, kind: str) -> Share:
        """A group of ranks that hold a base together: all (``world``), or those of one machine (``node``)."""
        import torch
        import torch.distributed as dist

        from qlora_fast.model.streamed.gather import Share

        # Ranks of one machine are numbered in a row, and agree on the first of them.
        first = 0 if kind == "world" else self.rank - self.local_rank
        starts = [int(start) for start in self.all_gather(torch.tensor([first]))]
        groups = [[r for r in range(self.world) if starts[r] == start] for start in sorted(set(starts))]
        made: dict[int, Any] = {members[0]: dist.new_group(members, timeout=COLLECTIVE) for members in groups}
        members = next(group for group in groups if self.rank in group)
        return Share(made[members[0]], members.index(self.rank), len(members), kind)

    def failed_rank(self) -> int | None:
        """The rank that reported its failure; None while none has."""
        return int(self.store.get("failed")) if self.store.check(["failed"]) else None

    def claim_failure(self) -> bool:
        """Announce that this rank failed; whether it is the first, and so the one that reports to the user."""
        return int(self.store.compare_set("failed", "", str(self.rank))) == self.rank

    def leave(self) -> None:
        """Wait until all have come to the end; the one that may hold the store goes last."""
        self.store.add("left", 1)
        self._wait(lambda: self.store.add("left", 0) >= self.world)
        if not self.first:
            self.store.add("gone", 1)
            return
        until = time.monotonic() + GRACE_S
        while self.store.add("gone", 0) < self.world - 1 and time.monotonic() < until:
            time.sleep(LOOK_S)

    def _wait(self, done: Callable[[], bool]) -> None:
        while not done():
            if self.failed_rank() is not None:
                raise PeerGone
            time.sleep(LOOK_S)
