"""A run's folder, read back: its settings, its results, its log and what its evaluation found. No torch."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from qlora_fast.config import Config, load
from qlora_fast.config.keys import about, affecting
from qlora_fast.errors import ArtifactError, first_line
from qlora_fast.hub import untrusted
from qlora_fast.runs import layout
from qlora_fast.runs.eval_samples import Samples, read_samples
from qlora_fast.runs.resolve import target_of


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run left on disk. ``samples`` is None until it was evaluated sample by sample."""

    name: str
    path: Path
    config: Config
    results: dict[str, Any]
    log_history: list[dict[str, float]]
    samples: Samples | None
    finished: bool

    @property
    def eval_loss(self) -> float | None:
        """Σ loss ÷ Σ tokens of its evaluation."""
        if self.samples is not None:
            return self.samples.mean_loss
        return self.results.get("eval_loss")

    @property
    def perplexity(self) -> float | None:
        return None if self.eval_loss is None else math.exp(min(self.eval_loss, 700.0))

    def settings(self) -> dict[str, Any]:
        """The settings that decide what is learned, in the terms that decide: the scale and not alpha, the samples of an
        optimizer step and not how they are split."""
        names = [name for name in affecting("data", "source", "learning") if not about(name).compared_as]
        config = self.config
        derived = {"scale": config.scale, "samples an update": config.samples_per_update}
        return {name: getattr(config, name) for name in names} | derived | {"seed": config.seed}


def read_run(path: str | Path, *, name: str | None = None, on: str | None = None) -> RunRecord:
    """Read a run's folder.

    Args:
        on: the name of a further evaluation of it, instead of the one it was trained with.

    Raises:
        ArtifactError: it is not a run, or has no such evaluation.
    """
    path = target_of(path).run_folder()
    finished = (path / layout.ALL_RESULTS).is_file()
    results = untrusted.read_optional(path / layout.ALL_RESULTS, untrusted.RunResults)
    file = path / layout.EVAL_SAMPLES
    if on is not None:
        file = path / layout.EVALUATIONS / on / layout.EVAL_SAMPLES
        if not file.is_file():
            there = sorted(p.parent.name for p in path.glob(f"{layout.EVALUATIONS}/*/{layout.EVAL_SAMPLES}"))
            known = f"; it has {', '.join(there)}" if there else ""
            raise ArtifactError(
                f"`{path}` has no evaluation `{on}`{known}",
                hint=f"make one: qlora-fast evaluate {shlex.quote(str(path))} dataset=FILE --name {on}",
            )
    return RunRecord(
        name or path.resolve().name,
        path,
        load(path / layout.CONFIG).config,
        results,
        _log(path),
        read_samples(file) if file.is_file() else None,
        finished,
    )


def read_runs(paths: Sequence[str | Path], on: str | None = None) -> list[RunRecord]:
    """Read several runs, each under a name of its own: as much of its path as tells it from the others."""
    folders = [Path(os.path.realpath(p)) for p in paths]
    names = [folder.name for folder in folders]
    depth = 1
    while len(set(names)) < len(names) and depth < max(len(f.parts) for f in folders):
        depth += 1
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
    if len(set(names)) < len(names):
        raise ArtifactError("the same run is named twice", hint="name each run once")
    return [read_run(path, name=name, on=on) for path, name in zip(paths, names, strict=True)]


def _log(path: Path) -> list[dict[str, float]]:
    """The whole log of a finished run; of another one what it has written so far."""
    state = untrusted.read_optional(path / layout.TRAINER_STATE, untrusted.TrainerState)
    if state:
        history: list[dict[str, float]] = state["log_history"]
        return history
    log = path / layout.LOG
    if not log.is_file():
        return []
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
        entries: list[Any] = [json.loads(line) for line in lines if line.endswith("}")]
        msgspec.convert(entries, list[untrusted.LogEntry])
    except (ValueError, RecursionError) as error:  # a wrong shape is a ValueError as well
        raise ArtifactError(
            f"`{log}` is damaged: {first_line(error)}", hint="resume the run: it writes its log again"
        ) from error
    return entries
