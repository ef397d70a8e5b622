"""Several processes that make one run: which one am I, who goes first, and has another one failed.

``torchrun`` and ``accelerate launch`` start them and tell each its place through the environment. They meet at a store
(a small key/value server of torch's), and everything but the sums of gradients and losses goes through it:

::

    rank 0   prepares ── sets `turn/1` ── trains ─┐  all_reduce   ┌─ … ── writes ── leaves
    rank 1   looks for `turn/1` ……… ── trains ────┘  an update    └─ … ──────────── leaves
    each     every half second: I live; does everybody else? has anybody failed? (see failing; and a connection to rank 0, see lifeline)

Waiting means looking at the store, never a barrier: a process inside a collective hears neither a signal nor that the
one it waits for has failed. Nothing here imports torch unless there are several processes.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qlora_fast.errors import ConfigError, Interrupted, PeerError, PeerGone, TrainingError
from qlora_fast.train.failing import COLLECTIVE, GRACE_S, LOOK_S, Watch, told_by_another, who_ended, without_a_word
from qlora_fast.train.lifeline import Lifeline
from qlora_fast.train.meeting import meet, not_met
from qlora_fast.train.place import Place, number

if TYPE_CHECKING:
    from torch import Tensor

    from qlora_fast.model.streamed.gather import Share

log = logging.getLogger(__name__)


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

    def any(self, said: bool) -> bool:
        """Whether any rank says yes."""
        return bool(self.most(int(said)))

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
        """The rank that has said that it failed."""
        return int(self.store.get("failed")) if self.store.check(["failed"]) else None

    def claim_failure(self) -> bool:
        """Say that this rank failed; whether it is the first to say so, and so the one to tell the user."""
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


_joined: Ranks | None = None


@contextmanager
def joined() -> Iterator[Ranks]:
    """Take part in the run for the length of the block; alone, if no launcher started this process.

    An error in the block ends all processes. It is raised as it is in the process where it came first, and as
    :class:`PeerError`, which is not to be shown, in the others.

    Raises:
        ConfigError: more processes than GPUs. TrainingError: another process ended without an error message.
    """
    global _joined
    world = 1 if _joined is not None else number("WORLD_SIZE", 1)
    if world == 1:
        yield _joined or Ranks(local_rank=number("LOCAL_RANK", 0))
        return
    me = _joined = _join()
    lifeline = Lifeline(me.rank, me.world, me.store)
    lifeline.start()
    watch = Watch(me, lifeline)
    watch.start()
    try:
        yield me
        me.leave()
    except Interrupted:
        # All ranks stop behind the same update; none has failed, and rank 0 may still be writing its checkpoint.
        with suppress(PeerGone, RuntimeError):
            me.leave()
        raise
    except BaseException as error:
        _end_for_certain()
        told = told_by_another(me, isinstance(error, PeerGone), watch)
        if told:
            raise PeerError from None
        if isinstance(error, PeerGone):
            raise without_a_word(who_ended(lifeline, "another process of the run")) from None
        raise
    finally:
        _joined = None
        watch.end()
        lifeline.end()
    import torch.distributed as dist

    dist.destroy_process_group()


def local_share(cores: int, processes: int) -> int:
    """Threads for each of ``processes`` on one machine: more would wait for each other on the cores."""
    return max(1, cores // max(1, processes))


def _join() -> Ranks:
    import torch
    import torch.distributed as dist

    place = Place.of_environment()
    rank, world, local_rank, beside = place.rank, place.world, place.local_rank, place.beside
    on_gpu = torch.cuda.is_available()
    if on_gpu and beside > torch.cuda.device_count():
        # Every process here sees it; one says it.
        raise (
            ConfigError(
                f"{beside} processes on this machine, but {torch.cuda.device_count()} GPUs",
                hint="start one process a GPU: torchrun --standalone --nproc-per-node gpu …; a launcher that shows each process one GPU "
                "alone (srun --gpus-per-task, CUDA_VISIBLE_DEVICES) has to show all of them",
            )
            if local_rank == 0
            else PeerError()
        )
    if rank:
        logging.getLogger("qlora_fast").setLevel(logging.ERROR)
    store = meet(rank, world)
    group: dict[str, Any] = {"store": store, "rank": rank, "world_size": world, "timeout": COLLECTIVE}
    if on_gpu:
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        group |= {"backend": "nccl", "device_id": device}
    else:
        # torchrun sets OMP_NUM_THREADS to 1 where the user did not, however many cores there are.
        if os.environ.get("OMP_NUM_THREADS", "1") == "1":
            torch.set_num_threads(local_share(_cores(), beside))
        group["backend"] = "gloo"
    try:
        dist.init_process_group(**group)
    except RuntimeError as error:
        raise not_met("the addresses that they exchanged", error) from error
    # A separate connection: a wait in the group's own one blocks it for all threads.
    store = dist.PrefixStore("qlora-fast", store.clone())  # type: ignore[attr-defined]
    return Ranks(rank, world, local_rank, store, machine_size=beside)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _end_for_certain() -> None:
    """A failed process ends, even if a library waits for the others while it is torn down."""
    faulthandler.dump_traceback_later(4 * GRACE_S, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115  held open
