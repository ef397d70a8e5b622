"""The learning rate and the number of updates, against transformers and against the guide's figures."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest
import torch
from transformers import TrainerState, TrainingArguments, get_scheduler

from qlora_fast.config import Config
from qlora_fast.train.schedule import SHAPES, Schedule, interval, total_updates, updates_per_epoch


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


@pytest.mark.parametrize("steps", [0.001, 0.1, 0.25, 0.07, 0.99, 1, 7, 500])
@pytest.mark.parametrize("updates", [1, 8, 100, 141])
def test_an_interval_is_the_one_that_transformers_would_use(steps: float, updates: int) -> None:
    theirs = TrainerState()
    theirs.compute_steps(TrainingArguments(logging_steps=steps, eval_steps=steps, save_steps=steps), updates)
    assert interval(steps, updates) == theirs.logging_steps == theirs.eval_steps == theirs.save_steps


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("cosine", {}),
    ("linear", {}),
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("cosine_with_min_lr", {"min_lr": 0.02}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.3}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", {"lr_end": 1e-3, "power": 2}),
    ("polynomial", {}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 12}),
    ("warmup_stable_decay", {"num_decay_steps": 9, "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", {"num_stable_steps": 5, "num_decay_steps": 11}),
    ("warmup_stable_decay", {"num_decay_steps": 9, "warmup_type": "cosine", "decay_type": "linear"}),
    ("warmup_stable_decay", {"num_decay_steps": 9, "warmup_type": "1-sqrt", "decay_type": "1-sqrt"}),
]


@pytest.mark.filterwarnings("ignore:Both num_training_steps")
@pytest.mark.parametrize(("kind", "more"), KINDS)
@pytest.mark.parametrize(("warmup", "updates"), [(0, 20), (7, 40), (40, 40), (1, 1), (60, 30)])
def test_every_rate_is_the_one_that_transformers_would_use(
    kind: str, more: dict[str, Any], warmup: int, updates: int
) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = get_scheduler(
        kind, optimizer, num_warmup_steps=warmup, num_training_steps=updates, scheduler_specific_kwargs=dict(more)
    )
    asked = {name: str(value) for name, value in more.items()}
    config = Config(learning_rate=0.1, lr_scheduler_type=kind, warmup_steps=warmup, lr_scheduler_kwargs=asked)  # type: ignore[arg-type]
    ours = Schedule.of(config, updates)
    for update in range(1, updates + 1):
        assert ours.lr(update) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12), update
        if update < updates:  # behind the last one theirs may divide by zero
            optimizer.step()
            theirs.step()


def test_every_schedule_of_the_config_has_a_shape() -> None:
    assert set(get_args(get_type_hints(Config)["lr_scheduler_type"])) == set(SHAPES)


def test_stable_then_decay_by_itself_is_a_third_and_the_rest() -> None:
    schedule = Schedule("warmup_stable_decay", 1.0, 100, 10)
    assert [k for k in range(1, 101) if schedule.lr(k) == 1.0] == list(range(11, 42))
    assert 0 < schedule.lr(100) < 0.01


def test_the_floor_of_cosine_with_min_lr_is_a_tenth_unless_asked_for() -> None:
    schedule = Schedule("cosine_with_min_lr", 1e-3, 1000, 0)
    assert schedule.lr(1000) == pytest.approx(1e-4, rel=1e-3)


def test_warmup_steps_win_over_the_ratio() -> None:
    assert Schedule.of(Config(warmup_ratio=0.5, warmup_steps=3), 100).warmup == 3
