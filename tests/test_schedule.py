"""The learning rate and the number of updates, against transformers and against the guide's figures."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from qlora_fast.config import Config
from qlora_fast.schedule import Schedule, total_updates, updates_per_epoch


@pytest.mark.parametrize(("update", "rate"), [(10, 3.000e-5), (20, 4.988e-5), (30, 4.849e-5)])
def test_the_guides_learning_rates(update: int, rate: float) -> None:
    schedule = Schedule.of(Config(learning_rate=5e-5, warmup_ratio=0.1), updates=141)
    assert schedule.warmup == 15
    assert schedule.lr(update) == pytest.approx(rate, abs=5e-9)


@pytest.mark.parametrize(
    ("rows", "samples_per_update", "epochs", "updates"),
    [(5986, 128, 3, 141), (5387, 128, 3, 129), (5387, 128, 5, 215), (1496, 32, 3, 141), (5986, 32, 3, 564)],
)
def test_the_guides_step_counts(rows: int, samples_per_update: int, epochs: float, updates: int) -> None:
    assert total_updates(updates_per_epoch(rows, samples_per_update), epochs, None) == updates


@pytest.mark.parametrize(
    ("epochs", "max_steps", "updates"),
    [(0.5, None, 24), (2.5, None, 118), (0.01, None, 1), (3, 100, 100), (1, 500, 500)],
)
def test_parts_of_an_epoch_are_rounded_up_and_max_steps_wins(
    epochs: float, max_steps: int | None, updates: int
) -> None:
    assert total_updates(47, epochs, max_steps) == updates


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "constant_with_warmup"])
@pytest.mark.parametrize(("warmup", "updates"), [(0, 20), (7, 40), (40, 40), (1, 1)])
def test_every_rate_is_the_one_that_transformers_would_use(kind: str, warmup: int, updates: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=updates)
    ours = Schedule.of(Config(learning_rate=0.1, lr_scheduler_type=kind, warmup_steps=warmup), updates)  # type: ignore[arg-type]
    for update in range(1, updates + 1):
        assert ours.lr(update) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12), update
        optimizer.step()
        theirs.step()


def test_warmup_steps_win_over_the_ratio() -> None:
    assert Schedule.of(Config(warmup_ratio=0.5, warmup_steps=3), 100).warmup == 3
