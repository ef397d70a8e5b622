"""Settings that are valid but hardly meant are named."""

from __future__ import annotations

import pytest

from qlora_fast.config import of
from qlora_fast.model.shapes import SHAPES
from qlora_fast.train.advice import advice
from qlora_fast.train.schedule import Timetable

EVALS = {"val_size": 0.1, "eval_strategy": "steps", "eval_steps": 10}


@pytest.mark.parametrize(
    ("settings", "eval_rows", "said"),
    [
        ({"warmup_steps": 100}, 0, "the warm-up takes 100 optimizer steps, the run has 20"),
        ({"warmup_steps": 20}, 0, "the warm-up takes 20 optimizer steps, the run has 20"),
        ({"warmup_steps": 19}, 0, None),
        ({"warmup_ratio": 0.1}, 0, None),
        ({"warmup_steps": 100, "lr_scheduler_type": "constant"}, 0, None),
        (EVALS, 3, "the evaluation has 3 samples, fewer than one batch of 8"),
        (EVALS, 80, None),
        (
            {**EVALS, "eval_steps": 500, "load_best_model_at_end": True},
            80,
            "load_best_model_at_end has nothing to choose",
        ),
        ({**EVALS, "load_best_model_at_end": True}, 80, None),
        ({**EVALS, "early_stopping_steps": 2}, 80, "early_stopping_steps: 2 never ends a run of 2 evaluations"),
        ({**EVALS, "early_stopping_steps": 1}, 80, None),
        ({"val_size": 0.1}, 80, "80 samples are kept for evaluation and never evaluated on"),
        ({"lora_rank": 256}, 0, "lora_rank 256 is larger than the narrowest layer (192)"),
        ({"lora_rank": 64}, 0, None),
    ],
)
def test_advice(settings: dict[str, object], eval_rows: int, said: str | None) -> None:
    config = of(num_train_epochs=2, per_device_eval_batch_size=8, **settings)
    lines = advice(config, Timetable.of(config, 10), eval_rows, SHAPES["smollm2-135m-instruct"])
    assert len(lines) == (said is not None), lines
    assert all(str(said) in line for line in lines)


def test_an_evaluation_set_that_is_trained_on() -> None:
    config = of(**EVALS, num_train_epochs=2)
    (line,) = advice(config, Timetable.of(config, 10), 80, None, ["data/a.json", "data/b.json"])
    assert line.startswith("the evaluation set is trained on as well (data/a.json and 1 more)")
