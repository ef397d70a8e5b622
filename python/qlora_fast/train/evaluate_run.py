"""Evaluate what a finished run left: its adapter, or its base model alone, on its held-out rows or on other data.

The same rows, the same template, the same arithmetic as the evaluations during training, so that the figures can stand
side by side with theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from qlora_fast import atomic_io
from qlora_fast.config import Config
from qlora_fast.data import selection
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.prepare import Progress as PrepareProgress
from qlora_fast.data.prepare import prepare_config
from qlora_fast.data.tokenizer import Tokenizer, tokenizer_of
from qlora_fast.errors import ArtifactError, ConfigError
from qlora_fast.hub import resolve, untrusted
from qlora_fast.model.adapter_files import load_adapter, whole_modules
from qlora_fast.model.patch import speed_up
from qlora_fast.runs import layout
from qlora_fast.runs.eval_samples import read_samples, sample_id, write_samples
from qlora_fast.runs.resolve import target_of
from qlora_fast.runs.statistics import Difference, compare
from qlora_fast.train.base import base_of
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.evaluate import EvalOptions, by_source, evaluate
from qlora_fast.train.forward import Forward
from qlora_fast.train.identity import check_settings
from qlora_fast.train.setup import Machine

log = logging.getLogger(__name__)

_HELD_OUT, _BASE = "held-out", "-base"
"""Parts of the names of evaluations: on the run's own held-out rows, and of the base model alone."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is evaluated: an adapter (or none) on a base model, how it was trained, and the run that it belongs to."""

    config: Config
    tokenizer: Tokenizer
    adapter: Path | None
    run: Path | None
    name: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The figures, and where they were written (None: the subject has no folder of ours)."""

    results: dict[str, Any]
    folder: Path | None


def subject_of(name: str, *, base_only: bool, settings: Mapping[str, Any] | None = None) -> Subject:
    """A run's folder, a folder inside it (best, last, checkpoint-N), an adapter's folder, or a base model's name.

    Args:
        settings: config keys over those of the run.

    Raises:
        ArtifactError: it is none of these, or an adapter that does not name its base model.
    """
    target, given = target_of(name), settings or {}
    config = target.config(given, hint="model_name_or_path=FOLDER")
    adapter = None if base_only or target.kind == "model" else target.adapter_folder(config.verify)
    if target.adapter is None or given.keys() & {"template", "default_system"}:
        tokenizer = tokenizer_of(config)
    else:
        tokenizer = target.tokenizer(config.model_name_or_path)
    label = name if target.kind == "model" else f"{Path(target.name).name}{' (base)' if base_only else ''}"
    return Subject(config, tokenizer, adapter, target.run, label)


def score(
    subject: Subject,
    *,
    data: list[str] | None = None,
    name: str | None = None,
    on_prepare: PrepareProgress | None = None,
    on_samples: Callable[[int, int], None] = lambda *_: None,
    ranks: Ranks | None = None,
) -> Evaluated:
    """Evaluate, and keep the figures beside the run.

    Args:
        data: files to evaluate on; default what the run held out.
        name: of this evaluation, for ``compare --on``; default the name of the first file.
        ranks: the processes that share the rows, and with ``shard_base`` the base. The first one writes.

    Raises:
        QloraFastError: anything that a user can fix.
    """
    config, tokenizer = subject.config, subject.tokenizer
    ranks = ranks or Ranks()
    check_settings(config, ranks)
    with ranks.in_turn():
        dataset, indices, trained_on = _rows(subject, tokenizer, data, on_prepare if ranks.first else None)
        base = resolve.model_path(config.model_name_or_path, config.verify)  # a GGUF file is converted here
    machine = Machine.of(config, ranks)
    model = _model(subject, base, machine, ranks)
    dataset.check_ids(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    packed = config.packed
    options = EvalOptions(config.per_device_eval_batch_size, config.row_budget, packed, accuracy=True)
    scores: list[NDArray[np.float64]] = []
    results: dict[str, Any] = evaluate(
        Forward(model, machine.device), dataset, indices, options, ranks=ranks,
        on_samples=lambda *both: scores.extend(both), on_row=lambda done: on_samples(done, len(indices)),
        groups=by_source(dataset, indices, data or config.eval_dataset),
    )  # fmt: skip
    results |= {"eval_samples": len(indices), "evaluated": subject.name, "data": dataset.fingerprint}
    results["trained_on"] = trained_on
    folder = _folder(subject, data, name)
    if folder is not None and ranks.first:
        folder.mkdir(parents=True, exist_ok=True)
        write_samples(folder / layout.EVAL_SAMPLES, dataset, indices, *scores)
        # The results of a run stay what its training said; a further evaluation has a folder of its own.
        if folder != subject.run or not (folder / layout.EVAL_RESULTS).is_file():
            atomic_io.write_json(folder / layout.EVAL_RESULTS, results)
    return Evaluated(atomic_io.finite(results), folder)


def adapter_minus_base(subject: Subject, base: Evaluated) -> dict[str, float | str] | None:
    """What the adapter changes on the samples that its base was just evaluated on, paired sample by sample.

    Returns:
        ``mean``, ``low``, ``high`` (nats per token, negative is better), ``samples``, ``tokens``, ``verdict``; None where the
        adapter's own evaluation of these samples is not there or cannot be compared.
    """
    if subject.run is None or base.folder is None:
        return None
    held_out = base.folder.name == f"{_HELD_OUT}{_BASE}"
    folder = subject.run if held_out else base.folder.with_name(base.folder.name.removesuffix(_BASE))
    adapter = folder / layout.EVAL_SAMPLES
    if not adapter.is_file() or folder == base.folder:
        return None
    found = compare(read_samples(adapter), read_samples(base.folder / layout.EVAL_SAMPLES))
    return {**asdict(found), "verdict": found.verdict} if isinstance(found, Difference) else None


def _rows(
    subject: Subject, tokenizer: Tokenizer, data: list[str] | None, progress: PrepareProgress | None
) -> tuple[PreparedDataset, NDArray[np.int64], int | None]:
    """What is evaluated on, and how many of it the run was trained on (None: it cannot be known)."""
    config, trained = subject.config, None
    if subject.run is not None:
        try:
            trained = selection.load(config, tokenizer, progress)
        except (OSError, ArtifactError, ConfigError) as error:
            if data is None:
                raise
            log.warning("the run's own data cannot be read (%s): rows that it was trained on are not noticed", error)
    if data is None:
        if subject.run is None or trained is None:
            raise ConfigError(f"`{subject.name}` has no held-out rows of its own", hint="give data: dataset=FILE")
        _check_unchanged(subject.run, trained.train.fingerprint)
        if trained.evals is None or not len(trained.eval_ids):
            raise ConfigError(f"`{subject.run}` held nothing out", hint="give data: dataset=FILE")
        return trained.evals, trained.eval_ids, 0
    dataset = prepare_config(config, data, tokenizer=tokenizer, progress=progress).reported().open()
    if not len(dataset):
        raise ConfigError(f"nothing of {', '.join(data)} can be evaluated on", hint="`qlora-fast prep` says why")
    if trained is None:
        return dataset, np.arange(len(dataset)), None
    learned = {sample_id(trained.train, i) for i in trained.train_ids.tolist()}
    overlap = sum(sample_id(dataset, i) in learned for i in range(len(dataset)))
    return dataset, np.arange(len(dataset)), overlap


def _check_unchanged(run: Path, fingerprint: str) -> None:
    before = untrusted.read_json(run / layout.RUN, untrusted.RunRecord).get("data")
    if before != fingerprint:
        raise ArtifactError(
            f"the data of `{run}` has changed since it was trained: its held-out rows are others now",
            hint="put the data back as it was, or evaluate on a file: dataset=FILE",
        )


def _model(subject: Subject, base: str, machine: Machine, ranks: Ranks) -> nn.Module:
    """Base and adapter in the arithmetic of training: the adapter's products in the dtype of the base."""
    config = subject.config
    whole = () if subject.adapter is None else whole_modules(subject.adapter)
    model = base_of(config, base, machine, ranks, whole)
    if subject.adapter is None:
        return model
    adapted = load_adapter(model, subject.adapter, keep_dtype=True)
    speed_up(adapted, config.kernels)
    return adapted.eval()


def _folder(subject: Subject, data: list[str] | None, name: str | None) -> Path | None:
    """The run itself for its own adapter on its own rows; a folder of its own for anything else."""
    if subject.run is None:
        return None
    own = subject.adapter is not None and subject.adapter.resolve() == subject.run.resolve()
    if data is None and own and name is None:
        return subject.run
    what = name or (Path(data[0]).name.split(".")[0] if data else _HELD_OUT)
    whose = "" if own else _BASE if subject.adapter is None else f"-{subject.adapter.name}"
    return subject.run / layout.EVALUATIONS / (what if name else what + whose)
