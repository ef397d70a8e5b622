"""Where the processes of one run meet: a store of torch's that a launcher names, and in it a place for this start alone.

A launcher that starts all processes again may keep its store, with everything that the earlier ones left there: addresses,
turns, failures. Its count of restarts does not tell the starts apart, as the agents of several machines count separately. So the
processes agree on a new name:

::

    rank r   hello/r = a number of its own ──┐                 ┌── welcome/number? its value is the name ── here/name/r
    rank 0   picks a name ───────────────────┴─ for every hello: welcome/number = name ── until all are here

A hello that was left by an earlier process gets a welcome that nothing waits for.
"""

from __future__ import annotations

import os
import secrets
import time
from datetime import timedelta
from typing import Any

from qlora_fast.errors import ConfigError, PeerError, TrainingError, first_line

_LOOK_S = 0.02
_TIMEOUT = timedelta(minutes=5)


def meet(rank: int, world: int) -> Any:
    """The store that the launcher's environment names, under a prefix of this start, once all processes have come to it.

    Raises:
        ConfigError: the launcher names no port. TrainingError: the processes did not meet.
    """
    import torch.distributed as dist

    where = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    if os.environ.get("MASTER_PORT") == "0":
        # torch would try to connect to it for half an hour.
        problem = ConfigError(
            f"the launcher names {where} as the place to meet, and 0 is not a port",
            hint="torchrun --standalone … finds a free port by itself",
        )
        raise problem if os.environ.get("LOCAL_RANK", "0") == "0" else PeerError()
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=_TIMEOUT))  # type: ignore[attr-defined]
        return dist.PrefixStore(f"qlora-fast/{agree(store, rank, world)}", store)  # type: ignore[attr-defined]
    except (RuntimeError, ValueError) as error:
        raise not_met(where, error) from error


def not_met(where: str, error: Exception) -> TrainingError:
    """What to report when the processes of a run did not come together."""
    return TrainingError(
        f"the processes of this run did not meet at {where}: {first_line(error)}",
        hint="start all of them with one launcher: torchrun --standalone --nproc-per-node N -m qlora_fast.cli train …",
    )


def agree(store: Any, rank: int, world: int, timeout: timedelta = _TIMEOUT) -> str:
    """A name that all processes of this start have, and none of an earlier one.

    Raises:
        RuntimeError: they did not all come in time.
    """
    until = time.monotonic() + timeout.total_seconds()
    own = secrets.token_hex(8)
    if rank:
        store.set(f"hello/{rank}", own)
        while not store.check([f"welcome/{own}"]):
            _wait(until, [0])
        name = str(store.get(f"welcome/{own}").decode())
        store.set(f"here/{name}/{rank}", "")
        return name
    missing = set(range(1, world))
    while missing:
        for other in sorted(missing):
            if store.check([f"here/{own}/{other}"]):
                missing.discard(other)
            elif store.check([f"hello/{other}"]):
                store.set(f"welcome/{store.get(f'hello/{other}').decode()}", own)
        if missing:
            _wait(until, sorted(missing))
    return own


def _wait(until: float, missing: list[int]) -> None:
    if time.monotonic() > until:
        raise RuntimeError(f"rank {', '.join(map(str, missing))} did not come")
    time.sleep(_LOOK_S)
