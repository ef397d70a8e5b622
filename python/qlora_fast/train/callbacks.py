"""What a run does beside training: its log, evaluations, checkpoints and trackers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qlora_fast.data.prepare import Progress as PrepareProgress
from qlora_fast.errors import StorageError
from qlora_fast.runs import layout
from qlora_fast.runs.eval_samples import write_samples
from qlora_fast.train import checkpoint
from qlora_fast.train.adapter_folder import AdapterFolder
from qlora_fast.train.best import keep_best
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.evaluate import EvalOptions, by_source, evaluate
from qlora_fast.train.identity import Identity
from qlora_fast.train.progress import Log
from qlora_fast.train.run_log import RunLog
from qlora_fast.train.setup import Setup
from qlora_fast.train.trackers import Trackers
from qlora_fast.train.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Watch:
    """What a run reports to its caller: log entries, each update (and how many there are), and the preparation of data."""

    on_log: Callable[[Log], None] = lambda _: None
    on_update: Callable[[int, int], None] = lambda *_: None
    on_prepare: PrepareProgress | None = None


class RunCallbacks:
    """Called by the trainer on every rank; the first rank writes."""

    def __init__(
        self,
        setup: Setup,
        identity: Identity,
        folder: AdapterFolder,
        ranks: Ranks,
        trackers: Trackers,
        watch: Watch,
    ) -> None:
        self._setup = setup
        self._config = setup.config
        self._output = Path(setup.config.output_dir)
        self._identity = identity
        self._folder = folder
        self._ranks = ranks
        self._trackers = trackers
        self._watch = watch
        self._log = RunLog(self._output, setup.timetable.updates)
        data = setup.data
        self._groups: dict[str, NDArray[np.int64]] = {}
        if self._config.eval_dataset and data.evals is not None:
            self._groups = by_source(data.evals, data.eval_ids, self._config.eval_dataset)

    def on_log(self, trainer: Trainer, entry: Log) -> None:
        """Write the entry, and pass it on to the trackers and to the caller."""
        if self._ranks.first:
            self._log.append(trainer.progress.log_history)
            self._trackers.log(entry)
            self._watch.on_log(entry)

    def on_update(self, trainer: Trainer) -> None:
        """Report an optimizer step to the caller."""
        self._watch.on_update(trainer.progress.update, self._setup.timetable.updates)

    def evaluate(self, trainer: Trainer) -> Log | None:
        """Evaluate on what is held out, and keep the adapter if it is the best so far."""
        data, config = self._setup.data, self._config
        if data.evals is None or not len(data.eval_ids):
            return None
        scores: list[NDArray[np.float64]] = []
        result = evaluate(
            self._setup.forward,
            data.evals,
            data.eval_ids,
            EvalOptions(
                config.per_device_eval_batch_size,
                data.plans.max_tokens_per_row,
                data.plans.packed,
                config.compute_accuracy,
            ),
            ranks=self._ranks,
            on_samples=lambda *both: scores.extend(both),
            groups=self._groups,
        )
        better = keep_best(config, trainer.progress, result, self._folder, self._output, self._ranks)
        # The scores that stay are those of the adapter that stays.
        if self._ranks.first and (better or not config.load_best_model_at_end):
            try:
                write_samples(self._output / layout.EVAL_SAMPLES, data.evals, data.eval_ids, *scores)
            except StorageError as error:
                log.warning("no scores by sample at update %d: %s; training continues", trainer.progress.update, error)
        return result

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint and ``last/``, and remove what ``save_total_limit`` leaves out.

        Raises:
            StorageError: one of them cannot be written.
        """
        setup, progress = self._setup, trainer.progress
        only = self._config.save_only_model and not trainer.stopping
        checkpoint.save_checkpoint(
            self._output,
            setup.model,
            setup.adapter,
            setup.optimizer,
            progress,
            self._identity,
            ranks=self._ranks,
            adapter_only=only,
        )
        if self._ranks.first:
            self._folder.write(self._output / layout.LAST, progress.update)
            checkpoint.rotate(self._output, self._config.save_total_limit, progress.best_update)
