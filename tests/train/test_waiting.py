"""Who waits for whom: seconds by rank, the slowest named once, and ranks that stay behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qlora_fast.train.distributed import Ranks
from qlora_fast.train.lateness import LATE_S, Lateness, named
from qlora_fast.train.waiting import Waits

CPU = torch.device("cpu")


class Told(Ranks):
    """Three ranks, the last of which never waits."""

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        return [torch.tensor(2.0), torch.tensor(3.0), torch.tensor(0.0)]


def test_the_slowest_rank_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    waits = Waits(Told(world=3), CPU)
    for _ in range(5):
        with waits.measured():
            pass
        waits.share(10.0)
    assert waits.about == {"waited_s": [10.0, 15.0, 0.0], "seconds": 50.0, "slowest_rank": 2}
    assert caplog.text.count("rank 2 is the slowest: in the last steps the others waited for it 25 % of the time") == 1


def test_waiting_that_costs_little_is_not_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    waits = Waits(Told(world=3), CPU)
    for _ in range(5):
        waits.share(100.0)
    assert not caplog.text
    assert waits.about["slowest_rank"] == 2


def test_many_short_waits_are_a_long_one() -> None:
    class Short(Ranks):
        def all_gather(self, tensor: Tensor) -> list[Tensor]:
            return [torch.tensor(0.0004), torch.tensor(0.0)]

    waits = Waits(Short(world=2), CPU)
    for _ in range(1000):
        waits.share(0.0003)
    assert waits.about == {"waited_s": [0.4, 0.0], "seconds": 0.3, "slowest_rank": 1}


def test_one_rank_waits_for_nobody() -> None:
    waits = Waits(Ranks(), CPU)
    with waits.measured():
        pass
    waits.share(1.0)
    assert waits.about == {}


def test_a_rank_that_stays_behind_is_reported_once_per_wait() -> None:
    lateness = Lateness()
    assert lateness.late({}, 0.0) == []
    assert lateness.late({0: 5, 1: 4, 2: 5}, 0.0) == []
    assert lateness.late({0: 5, 1: 4, 2: 4}, LATE_S - 1) == []
    assert lateness.late({0: 5, 1: 4, 2: 4}, LATE_S + 1) == [1]
    assert lateness.late({0: 5, 1: 4, 2: 4}, 2 * LATE_S + 2) == [2]
    assert lateness.late({0: 5, 1: 5, 2: 5}, 3 * LATE_S) == [], "all have come"
    assert lateness.late({0: 6, 1: 5, 2: 6}, 3 * LATE_S) == []
    assert lateness.late({0: 6, 1: 5, 2: 6}, 5 * LATE_S) == [1], "another wait"
    assert named([1]) == "rank 1"
    assert named([1, 2]) == "ranks 1, 2"
