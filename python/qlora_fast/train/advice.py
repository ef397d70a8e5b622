"""Settings that are valid but hardly meant: one line each, shown by ``plan`` and ``train`` alike. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qlora_fast.config import Config
from qlora_fast.model.memory_estimate import Shape
from qlora_fast.train.schedule import Schedule, Timetable


def advice(
    config: Config, timetable: Timetable, eval_rows: int, shape: Shape | None, seen: Sequence[str] = ()
) -> list[str]:
    """What should be looked at before a run begins.

    Args:
        eval_rows: samples that are held out or in eval_dataset.
        shape: the model's, where it is known without loading it.
        seen: files of eval_dataset that are trained on as well.
    """
    lines = [*_warm_up(config, timetable.rate), *_evaluation(config, timetable, eval_rows)]
    if seen:
        more = f" and {len(seen) - 1:,} more" if len(seen) > 1 else ""
        lines.append(
            f"the evaluation set is trained on as well ({seen[0]}{more}): its loss measures what the model has "
            "memorized; name other files, set val_size instead, or deduplicate: exact to leave equal questions out"
        )
    return lines + ([] if shape is None else list(_rank(config, shape)))


def _warm_up(config: Config, schedule: Schedule) -> Iterator[str]:
    if 0 < schedule.updates <= schedule.warmup:
        reached = max(schedule.lr(step) for step in range(1, schedule.updates + 1))
        yield (
            f"the warm-up takes {schedule.warmup:,} optimizer steps, the run has {schedule.updates:,}: the learning rate "
            f"never passes {reached:.1e} of {config.learning_rate:.1e}; lower warmup_steps or warmup_ratio"
        )


def _evaluation(config: Config, timetable: Timetable, eval_rows: int) -> Iterator[str]:
    evaluations = timetable.evaluations
    if eval_rows and not evaluations:
        yield (
            f"{eval_rows:,} samples are kept for evaluation and never evaluated on: set eval_strategy to steps or epoch, "
            "or val_size to 0"
        )
    if not evaluations or not eval_rows:
        return
    batch = config.per_device_eval_batch_size * config.world_size
    if eval_rows < batch:
        yield f"the evaluation has {eval_rows:,} samples, fewer than one batch of {batch:,}: its loss varies by chance"
    if config.load_best_model_at_end and evaluations == 1:
        yield "there is one evaluation, at the end: load_best_model_at_end has nothing to choose from; lower eval_steps"
    patience = config.early_stopping_steps
    if patience and evaluations <= patience:
        yield f"early_stopping_steps: {patience} never ends a run of {evaluations} evaluations; lower it or eval_steps"


def _rank(config: Config, shape: Shape) -> Iterator[str]:
    narrowest = min(shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.ffn)
    if config.lora_rank > narrowest:
        yield (
            f"lora_rank {config.lora_rank:,} is larger than the narrowest layer ({narrowest:,}): an adapter of that rank "
            "has more parameters than the layer and learns nothing that rank "
            f"{narrowest:,} cannot"
        )
