"""Processes that are started again find each other in a store that has everything of their predecessors."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from qlora_fast.train.meeting import agree

SHORT = timedelta(seconds=0.3)


def started(store: HashStore, world: int) -> set[str]:
    """The names that the processes of one start agree on; they come in an order that is not theirs."""
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda rank=rank: names.append(agree(store, rank, world, timedelta(seconds=20))))
        for rank in reversed(range(world))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == world
    return set(names)


@pytest.mark.parametrize("world", [1, 2, 5])
def test_each_start_has_a_name_of_its_own(world: int) -> None:
    store = HashStore()
    names = [started(store, world) for _ in range(4)]
    assert all(len(name) == 1 for name in names), "the processes of one start agree"
    assert len(set.union(*names)) == 4, "and none with those of another"


def test_starts_that_were_incomplete_do_no_harm() -> None:
    store = HashStore()
    with pytest.raises(RuntimeError, match="rank 0 did not come"):
        agree(store, 1, 3, SHORT)
    with pytest.raises(RuntimeError, match="rank 1, 2 did not come"):
        agree(store, 0, 3, SHORT)  # greets the first rank 1, which has left

    assert len(started(store, 3)) == 1
