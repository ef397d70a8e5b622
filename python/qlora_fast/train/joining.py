"""How a process takes part in a run: it meets the others, and in the end leaves with them, or reports why it failed.

``torchrun`` and ``accelerate launch`` start the processes and give each its place in the environment; without them a run has
one process. Nothing here imports torch unless there are several.
"""

from __future__ import annotations

import faulthandler
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from qlora_fast.errors import ConfigError, Interrupted, PeerError, PeerGone
from qlora_fast.model import host
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.failing import COLLECTIVE, GRACE_S, Watch, ended_without_message, reported_by_another, who_ended
from qlora_fast.train.lifeline import Lifeline
from qlora_fast.train.meeting import meet, not_met
from qlora_fast.train.place import Place, number

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
        if reported_by_another(me, isinstance(error, PeerGone), watch):
            raise PeerError from None
        if isinstance(error, PeerGone):
            raise ended_without_message(who_ended(lifeline, "another process of the run")) from None
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
        # Every process of this machine finds it; one reports it.
        raise (
            ConfigError(
                f"{beside} processes on this machine, but {torch.cuda.device_count()} GPUs",
                hint="start one process per GPU: torchrun --standalone --nproc-per-node gpu …; a launcher that shows each process one GPU "
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
            torch.set_num_threads(local_share(host.usable_cores(), beside))
        group["backend"] = "gloo"
    try:
        dist.init_process_group(**group)
    except RuntimeError as error:
        raise not_met("the addresses that they exchanged", error) from error
    # A separate connection: a wait in the group's own one blocks it for all threads.
    store = dist.PrefixStore("qlora-fast", store.clone())  # type: ignore[attr-defined]
    return Ranks(rank, world, local_rank, store, machine_size=beside)


def _end_for_certain() -> None:
    """A failed process ends, even if a library waits for the others while it is torn down."""
    faulthandler.dump_traceback_later(4 * GRACE_S, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115  held open
