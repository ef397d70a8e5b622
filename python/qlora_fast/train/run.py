"""A whole training run: from a config to an output folder."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from qlora_fast import atomic_io
from qlora_fast.config import Config, dump
from qlora_fast.data.findings import as_json
from qlora_fast.model import openmp
from qlora_fast.model.load import count
from qlora_fast.model.patch import report_of
from qlora_fast.runs import layout
from qlora_fast.train import memory_usage, parent, resume
from qlora_fast.train.adapter_folder import AdapterFolder
from qlora_fast.train.best import restore_best
from qlora_fast.train.callbacks import RunCallbacks, Watch
from qlora_fast.train.compiling import Compilation, compile_layers
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.graphs import chosen_pass
from qlora_fast.train.identity import COMPILED, PRODUCTS, ROW_BUDGET, check_same_start, check_settings, identity_of
from qlora_fast.train.joining import joined
from qlora_fast.train.memory_probe import explained
from qlora_fast.train.output_folder import (
    check_output,
    claim_output,
    estimated_bytes,
    finish_output,
    results_of,
    warn_of_little_space,
)
from qlora_fast.train.output_lock import OutputLock
from qlora_fast.train.progress import Progress
from qlora_fast.train.row_pass import RowPass
from qlora_fast.train.run_status import RunStatus, ending, environment
from qlora_fast.train.setup import Machine, Setup, set_up
from qlora_fast.train.trackers import Trackers
from qlora_fast.train.trainer import Trainer, TrainOptions

__all__ = ["Watch", "train"]

log = logging.getLogger(__name__)


def train(config: Config, watch: Watch | None = None, *, resume_anyway: bool = False) -> dict[str, Any]:
    """Train as the config says.

    Args:
        config: a checked config, from :func:`qlora_fast.config.load` or :func:`qlora_fast.config.of`.
        watch: called with log entries and progress while the run goes on.
        resume_anyway: resume also where settings, data or base model differ from those of the checkpoint, and report what
            differs; otherwise that is an error.

    Returns:
        What all_results.json holds: ``train_loss``, ``train_runtime`` (seconds), ``train_steps`` (optimizer steps),
        ``train_samples``, the best or last evaluation (``eval_loss``, ``perplexity``, …), ``memory`` (bytes), ``ended`` (why
        the run ended). A number that is not finite is None.

    Raises:
        QloraFastError: anything that a user can fix; the hint says how.
        Interrupted: a signal stopped the run, and a checkpoint was written.
    """
    with joined() as ranks, OutputLock() as lock:
        return _train(config, watch or Watch(), ranks, lock, resume_anyway=resume_anyway)


def _train(config: Config, watch: Watch, ranks: Ranks, lock: OutputLock, *, resume_anyway: bool) -> dict[str, Any]:
    # Set up. What the machine or the folder refuses is refused before anything is done.
    output = Path(config.output_dir)
    check_settings(config, ranks)
    machine = Machine.of(config, ranks)
    with ranks.in_turn():
        if ranks.first:
            lock.take(output)
            check_output(config)
            resume.check_start(config)
            parent.check_named(config)
    kept = resume.kept(config, ranks)
    setup = set_up(config, machine, ranks, watch.on_prepare, kept=kept)
    identity = identity_of(config, setup.data, setup.model_path, ranks)
    folder = AdapterFolder(setup.model, setup.adapter, setup.tokenizer, config.model_name_or_path)

    # Resume.
    with ranks.in_turn():
        if ranks.first:
            own = config.resume_from_checkpoint == resume.AUTO and resume.is_own(output, identity)
            lock.take(output)
            claim_output(config, own=own)
            lock.renew(output)
    progress = resume.resume(setup, identity, folder, ranks, anyway=resume_anyway)
    check_same_start(config, setup.adapter.weights, ranks)
    recomputed = setup.probe(ranks)
    compilation = compile_layers(setup, ranks, kept.compiled)
    identity |= {ROW_BUDGET: setup.row_budget.tokens, PRODUCTS: list(report_of(setup.model).products.ways)}
    identity[COMPILED] = compilation.used

    # Callbacks and loop.
    trackers = Trackers.of(config, None if progress is None else progress.update) if ranks.first else Trackers()
    callbacks = RunCallbacks(setup, identity, folder, ranks, trackers, watch)
    row_pass = chosen_pass(setup, recomputed=recomputed)
    trainer = _trainer(setup, callbacks, ranks, progress, row_pass)
    about = _about(setup, identity, trainer, compilation, row_pass)
    status = RunStatus(output if ranks.first else None, about)
    if ranks.first:
        _announce(setup, trainer)
        atomic_io.write_text(output / layout.CONFIG, dump(config))
    with status.watching(trainer):
        with (
            trackers,
            explained(config, setup.data.train, setup.longest),
            openmp.considerate(machine.device) as watcher,
        ):
            # Loading is over, and the first update may take a minute.
            callbacks.on_update(trainer)
            try:
                trainer.run()
            finally:  # a run that is interrupted has a reason, too
                status.about["torch_compile"] = compilation.described()
                status.about["cuda_graphs"] = row_pass.described()
            best, ended = _adapters(trainer, config, folder, ranks)
            results = results_of(trainer.progress, len(setup.data.train_ids), best=best)
            results |= {"ended": ended, "gradient_checkpointing": recomputed, "memory": _memory(setup)}
            results["preparation"] = status.about["preparation"]
            trackers.finish(results)
        if watcher is not None:
            status.about["threads"]["seconds_asleep_for_others"] = round(watcher.yielded, 1)
        if ranks.first:
            finish_output(config, trainer.progress, results, best=best)
    status.note(ended)
    return results


def _about(
    setup: Setup, identity: dict[str, Any], trainer: Trainer, compilation: Compilation, row_pass: RowPass
) -> dict[str, Any]:
    """What run.json says from the beginning."""
    return {
        **environment(setup.config, identity, setup.machine.device),
        "attention": setup.forward.attention(packed=setup.batches.packed),
        "max_tokens_per_row": asdict(setup.row_budget),
        "kernels": report_of(setup.model).described(),
        "torch_compile": compilation.described(),
        "cuda_graphs": row_pass.described(),
        "threads": {"count": torch.get_num_threads(), "waiting": str(openmp.waiting())},
        "parent": setup.parent,
        "waiting": trainer.waits.about,
        "preparation": as_json(setup.data.prepared.report, setup.data.prepared.findings),
    }


def _trainer(
    setup: Setup, callbacks: RunCallbacks, ranks: Ranks, progress: Progress | None, row_pass: RowPass
) -> Trainer:
    timetable = setup.timetable
    return Trainer(
        setup.forward,
        setup.adapter,
        setup.optimizer,
        timetable.rate,
        setup.batches,
        setup.data.plan_of_epoch,
        TrainOptions(
            logging_steps=timetable.log_every,
            eval_every=timetable.eval_every,
            save_every=timetable.save_every,
            patience=setup.config.early_stopping_steps,
        ),
        callbacks,
        ranks=ranks,
        progress=progress,
        row_pass=row_pass,
    )


def _announce(setup: Setup, trainer: Trainer) -> None:
    """Log what is about to be trained, and warn where the disk is too small for it."""
    config, timetable = setup.config, setup.timetable
    trained, all_ = count(setup.model)
    log.info(
        "%s samples, %s per update, %s updates (%s per epoch); %s of %s parameters are trained, %s on %s",
        f"{len(setup.data.train_ids):,}",
        "full rows" if config.packing == "dense" else setup.data.plans.samples_per_update,
        f"{timetable.updates:,}", f"{timetable.per_epoch:,}", f"{trained:,}", f"{all_:,}",
        str(setup.machine.dtype).removeprefix("torch."), setup.machine.device,
    )  # fmt: skip
    left = timetable.updates - trainer.progress.update
    saves = 0 if timetable.save_every is None else -(-left // timetable.save_every)
    warn_of_little_space(Path(config.output_dir), *estimated_bytes(trainer), saves, config.save_total_limit)


def _adapters(trainer: Trainer, config: Config, folder: AdapterFolder, ranks: Ranks) -> tuple[bool, str]:
    """Write ``last/``, see to ``best/``; whether the final adapter is the best one, and why the run ended."""
    output, progress, ended = Path(config.output_dir), trainer.progress, ending(trainer, config)

    def write() -> str:
        folder.write(output / layout.LAST, progress.update)
        return "best" if restore_best(output, progress, folder) else ""

    kept = bool(ranks.from_first(write))
    if config.load_best_model_at_end and progress.best_update is not None and not kept:
        ended += f"; the best adapter (update {progress.best_update:,}) is gone, this one is of the last update"
    return kept and config.load_best_model_at_end, ended


def _memory(setup: Setup) -> dict[str, int]:
    parts = memory_usage.parts(setup.model, setup.adapter, setup.optimizer)
    return {**parts, "peak": memory_usage.peak(setup.machine.device)}
