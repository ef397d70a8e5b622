"""A whole training run: from a config to an output folder. The parts go to the trainer, and what it tells into the folder."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qlora_fast import atomic_io
from qlora_fast.config import Config, dump
from qlora_fast.config.keys import affecting
from qlora_fast.data.plan import PlanOptions
from qlora_fast.data.prepare import Progress as PrepareProgress
from qlora_fast.model.load import count
from qlora_fast.model.patch import report_of
from qlora_fast.runs import eval_samples
from qlora_fast.runs.eval_samples import write_samples
from qlora_fast.train import checkpoint, memory_usage, resume
from qlora_fast.train.distributed import Ranks, joined
from qlora_fast.train.evaluate import EvalOptions, by_source, evaluate
from qlora_fast.train.memory_probe import explained, probe
from qlora_fast.train.output_folder import (
    check_output,
    claim_output,
    ending,
    ending_noted,
    environment,
    finish_output,
    keep_best,
    log_line,
    note_ending,
    results_of,
    write_adapter,
)
from qlora_fast.train.progress import Log
from qlora_fast.train.schedule import interval
from qlora_fast.train.setup import Data, machine, make_parts
from qlora_fast.train.trackers import Trackers
from qlora_fast.train.trainer import Hooks, Trainer, TrainOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Watch:
    """What a run tells its caller: log entries, each update, and what it is about to do."""

    on_log: Callable[[Log], None] = lambda _: None
    on_update: Callable[[int, int], None] = lambda *_: None
    on_prepare: PrepareProgress | None = None


def train(config: Config, watch: Watch | None = None) -> dict[str, Any]:
    """Train as the config says; returns what all_results.json holds.

    Raises:
        QloraFastError: anything that a user can mend. Interrupted: a signal came; a checkpoint was written.
    """
    with joined() as ranks:
        return _train(config, watch or Watch(), ranks)


def _train(config: Config, watch: Watch, ranks: Ranks) -> dict[str, Any]:
    rank, world = ranks.rank, ranks.world
    output = Path(config.output_dir)
    machine(config, ranks)  # what this machine cannot do is refused before anything is done
    with ranks.in_turn():
        if ranks.first:
            check_output(config)
    parts = make_parts(config, ranks, watch.on_prepare, world)
    with ranks.in_turn():
        if ranks.first:
            if isinstance(config.resume_from_checkpoint, str):
                resume.starting_point(output, config.resume_from_checkpoint)  # refused before the folder is claimed
            claim_output(config)
    data, tokenizer, packed = parts.data, parts.tokenizer, parts.packed
    model, adapter, optimizer, forward, device = (
        parts.model,
        parts.adapter,
        parts.optimizer,
        parts.forward,
        parts.device,
    )
    per_epoch = len(parts.plan_of_epoch(0).supervised)
    schedule = parts.schedule(per_epoch)
    identity = _identity(config, data, parts.plans)
    progress = None
    if config.resume_from_checkpoint:
        start = ranks.from_first(lambda: str(resume.starting_point(output, config.resume_from_checkpoint) or ""))
        if not start:
            log.info("no checkpoint in `%s` yet: starting from the beginning", output)
        else:
            progress = checkpoint.load_checkpoint(Path(start), adapter, optimizer, identity)
            if rank == 0:
                if isinstance(config.resume_from_checkpoint, str):
                    resume.set_aside_behind(Path(start))
                # The killed run may have logged updates that are made again now.
                lines = [log_line(entry, schedule.updates) for entry in progress.log_history]
                atomic_io.write_text(output / "trainer_log.jsonl", "".join(lines))
            log.info("going on from `%s`, update %d of %d", start, progress.update, schedule.updates)

    longest = parts.longest_row(epochs=-(-schedule.updates // per_epoch))
    recomputed = probe(config, forward, adapter, data.train, longest)

    trackers = Trackers.of(config) if rank == 0 else Trackers()
    own, all_ = count(model)
    log.info(
        "%s samples, %s an update, %s updates (%s an epoch); %s of %s parameters are trained, %s on %s",
        f"{len(parts.lengths):,}", parts.plans.samples_per_update if config.packing != "dense" else "full rows",
        f"{schedule.updates:,}", f"{per_epoch:,}", f"{own:,}", f"{all_:,}", str(parts.dtype).removeprefix("torch."), device,
    )  # fmt: skip

    def on_log(trainer: Trainer, entry: Log) -> None:
        if rank == 0:
            with (output / "trainer_log.jsonl").open("a", encoding="utf-8") as file:
                file.write(log_line(entry, schedule.updates))
            trackers.log(entry)
            watch.on_log(entry)

    groups: dict[str, NDArray[np.int64]] = {}
    if config.eval_dataset and data.evals is not None:
        groups = by_source(data.evals, data.eval_ids, config.eval_dataset)

    def on_eval(trainer: Trainer) -> Log | None:
        if data.evals is None or not len(data.eval_ids):
            return None
        options = EvalOptions(config.per_device_eval_batch_size, config.row_budget, packed, config.compute_accuracy)
        scores: list[NDArray[np.float64]] = []
        result = evaluate(
            forward, data.evals, data.eval_ids, options, rank=rank, world_size=world,
            on_samples=lambda *both: scores.extend(both), groups=groups,
        )  # fmt: skip
        better = keep_best(config, trainer, result, tokenizer, output if rank == 0 else None)
        # The scores that stay are those of the adapter that stays.
        if rank == 0 and (better or not config.load_best_model_at_end):
            write_samples(output / eval_samples.FILE, data.evals, data.eval_ids, *scores)
        return result

    def on_save(trainer: Trainer) -> None:
        only = config.save_only_model and not trainer.stopping
        checkpoint.save_checkpoint(output, model, adapter, optimizer, trainer.progress, identity, adapter_only=only)
        if rank == 0:
            write_adapter(output / "last", trainer, tokenizer, config)
            checkpoint.rotate(output, config.save_total_limit, trainer.progress.best_update)

    def every(strategy: str, steps: int | float) -> int | None:
        return {"epoch": per_epoch, "steps": interval(steps, schedule.updates)}.get(strategy)

    trainer = Trainer(
        forward, adapter, optimizer, schedule, data.train, data.train_ids, parts.plan_of_epoch,
        TrainOptions(
            logging_steps=interval(config.logging_steps, schedule.updates),
            eval_every=every(config.eval_strategy, config.eval_steps),
            save_every=every(config.save_strategy, config.save_steps),
            packed=packed,
            patience=config.early_stopping_steps,
        ),
        Hooks(on_log, on_eval, on_save, lambda t: watch.on_update(t.progress.update, schedule.updates)),
        rank=rank, world_size=world, progress=progress,
    )  # fmt: skip
    if rank == 0:
        atomic_io.write_text(output / "config.yaml", dump(config))
    about = {
        **environment(config, data.train.fingerprint, device),
        "attention": forward.attention(),
        "kernels": report_of(model).described(),
    }
    own_folder = output if rank == 0 else None
    with ending_noted(own_folder, about, trainer):
        with trackers, explained(config, data.train, longest):
            # Loading is over, and the first update may take a minute.
            watch.on_update(trainer.progress.update, schedule.updates)
            done = trainer.run()
            results = {**results_of(done, len(parts.lengths), config), "ended": ending(trainer, config)}
            results["gradient_checkpointing"] = recomputed
            results["memory"] = {**memory_usage.parts(model, adapter, optimizer), "peak": memory_usage.peak(device)}
            trackers.finish(results)
        if rank == 0:
            finish_output(trainer, config, tokenizer, results)
    note_ending(own_folder, about, results["ended"])
    return results


def _identity(config: Config, data: Data, plans: PlanOptions) -> dict[str, Any]:
    """Everything that a resumed run must have in common with the run that it goes on with."""
    # The data is compared by its fingerprint, the batch by its size; nothing else changes what is learned.
    settings = {name: getattr(config, name) for name in affecting("data", "learning", "arithmetic")}
    return {
        **settings,
        checkpoint.EFFECTIVE_BATCH: plans.samples_per_update,
        "data": data.train.fingerprint,
        "training_samples": hashlib.sha256(np.ascontiguousarray(data.train_ids).tobytes()).hexdigest()[:16],
    }
