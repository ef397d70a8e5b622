"""Which samples a run learns from, and which it is evaluated on: drawn, held out, then mixed. No torch.

::

    datasets ─▶ num_samples ─▶ hold out val_size ─▶ mix_strategy ─▶ ids to train on
                               (whole questions, where rows were de-duplicated)

What is held out is taken before anything is repeated, so no row is ever on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qlora_fast import _core
from qlora_fast.config import Config
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.plan import EpochPlan, PlanOptions, epoch_plan
from qlora_fast.data.prepare import Prepared, Progress, prepare_config
from qlora_fast.data.tokenizer import Tokenizer
from qlora_fast.errors import DataError

Ids = NDArray[np.int64]
_MOST_TOKENS = 2**31 - 1
"""The core counts the tokens of a row in 32 bits."""


@dataclass(frozen=True, slots=True)
class Share:
    """What became of one dataset.

    Attributes:
        rows: samples it has (or, with num_samples, that were drawn).
        held_out: of these, kept for evaluation.
        left_out: of these, not trained on because their question is in eval_dataset.
        taken: samples of an epoch that come from it.
        repeated: of these, how many are there a second time or more often.
        unused: samples that no epoch sees.
    """

    name: str
    rows: int
    held_out: int
    left_out: int
    taken: int
    repeated: int
    unused: int

    def __str__(self) -> str:
        words = [f"{self.taken:,} of {self.rows:,} rows"]
        if self.repeated:
            words.append(f"{self.repeated:,} of them repeated")
        words += [
            f"{count:,} {what}"
            for count, what in (
                (self.held_out, "held out"),
                (self.left_out, "left out: their question is in eval_dataset"),
                (self.unused, "unused"),
            )
            if count
        ]
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Selection:
    """Sample ids to train on (one may be there more than once) and to evaluate on, and what became of each dataset."""

    train_ids: Ids
    eval_ids: Ids
    shares: list[Share]


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run trains and evaluates on, opened once, and how it is cut into updates and rows.

    Attributes:
        prepared: the preparation that ``train`` came from, with what it found.
        train_ids: (N,) samples of ``train`` that an epoch sees.
        evals: where the evaluation set is; None where there is none. eval_ids: its samples, (n,).
        lengths, supervised: tokens and supervised tokens of each sample that is trained on, (N,).
        seen: files of eval_dataset that are trained on as well; none where their rows are left out of the training.
    """

    prepared: Prepared
    train: PreparedDataset
    train_ids: Ids
    evals: PreparedDataset | None
    eval_ids: Ids
    shares: list[Share]
    plans: PlanOptions
    lengths: NDArray[np.uint32]
    supervised: NDArray[np.uint32]
    seen: list[str]

    def in_rows_of(self, tokens: int) -> RunData:
        """The same, packed into rows of at most so many tokens."""
        return replace(self, plans=replace(self.plans, max_tokens_per_row=tokens))

    def in_whole_updates(self) -> RunData:
        """The same with each update in one row on each device."""
        most = self.plans.samples_per_update * int(self.lengths.max())
        return self.in_rows_of(min(most, _MOST_TOKENS))

    def plan_of_epoch(self, epoch: int) -> EpochPlan:
        """The updates of an epoch, counted from 0."""
        return epoch_plan(self.lengths, self.supervised, self.plans, epoch)


def load(config: Config, tokenizer: Tokenizer, progress: Progress | None = None, world: int | None = None) -> RunData:
    """Prepare a config's data, or find it prepared, and divide it into what is trained on and what is held out.

    Args:
        world: devices to plan for; default the config's ``world_size``.

    Raises:
        DataError, ConfigError, ArtifactError: see :func:`~qlora_fast.data.prepare.prepare_config` and :func:`select`.
    """
    prepared = prepare_config(config, tokenizer=tokenizer, progress=progress)
    evals = None
    if config.eval_dataset:
        evals = prepare_config(config, config.eval_dataset, tokenizer=tokenizer, progress=progress)
    chosen = select(prepared, config, [evals] if evals else [])
    train = prepared.open()
    held = (train if len(chosen.eval_ids) else None, chosen.eval_ids)
    if evals is not None:
        held = (evals.open(), eval_rows(evals, config))
    return RunData(
        prepared,
        train,
        chosen.train_ids,
        *held,
        shares=chosen.shares,
        plans=PlanOptions.of(config, world),
        lengths=np.ascontiguousarray(train.lengths[chosen.train_ids]),
        supervised=np.ascontiguousarray(train.supervised[chosen.train_ids]),
        seen=_seen(prepared, evals) if evals is not None and config.deduplicate == "off" else [],
    )


def select(prepared: Prepared, config: Config, evals: Sequence[Prepared] = ()) -> Selection:
    """Draw, hold out and mix the samples of ``prepared`` as the config says: a pure function of these.

    Args:
        evals: the prepared eval_dataset. Where rows were de-duplicated, a question of theirs is not trained on.

    Raises:
        DataError: a dataset has nothing to train on. ConfigError: val_size or interleave_probs do not fit.
    """
    dataset = prepared.open()
    groups = dataset.by_dataset()
    seed, questions = config.seed, dataset.questions
    drawn = {name: _draw(ids, _wanted(prepared, name, config), seed) for name, ids in groups.items()}
    pool = np.sort(np.concatenate([np.unique(ids) for ids in drawn.values()]))
    held = np.zeros(len(dataset), dtype=np.bool_)
    # Equal questions have the same hash; without one every row is a separate question, whatever samples it has.
    together = dataset.rows if questions is None else questions
    _, eval_at = _core.split(len(pool), config.val_size, seed, None if together is None else together[pool])
    held[pool[eval_at]] = True
    known = _questions(evals)
    left = np.zeros_like(held) if questions is None or known is None else np.isin(questions, known) & ~held

    names = list(drawn)
    sides = [ids[~(held | left)[ids]] for ids in drawn.values()]
    for name, side in zip(names, sides, strict=True):
        if not len(side) and (config.mix_strategy != "concat" or not any(len(s) for s in sides)):
            raise DataError(
                f"nothing of `{name}` is left to train on",
                hint="all its rows are held out, or their questions are in eval_dataset; leave it out of `dataset`",
            )
    taken = _core.mix([len(s) for s in sides], list(config.interleave_probs), config.mix_strategy, seed)
    chosen = [side[at] for side, at in zip(sides, taken, strict=True)]
    shares = []
    for name, side, ids in zip(names, sides, chosen, strict=True):
        rows, distinct = np.unique(drawn[name]), len(np.unique(ids))
        shares.append(
            Share(
                name=name,
                rows=len(rows),
                held_out=int(held[rows].sum()),
                left_out=int(left[rows].sum()),
                taken=len(ids),
                repeated=len(ids) - distinct,
                unused=len(np.unique(side)) - distinct,
            )
        )
    return Selection(np.sort(np.concatenate(chosen)), np.flatnonzero(held), shares)


def eval_rows(prepared: Prepared, config: Config) -> Ids:
    """The samples of a dataset of eval_dataset: all, or as many as its num_samples draws."""
    dataset = prepared.open()
    groups = dataset.by_dataset()
    drawn = [np.unique(_draw(ids, _wanted(prepared, name, config), config.seed)) for name, ids in groups.items()]
    return np.sort(np.concatenate(drawn))


def _seen(train: Prepared, evals: Prepared) -> list[str]:
    """The evaluation's files whose bytes are trained on, whatever they are called."""
    trained = {source["blake3"] for source in train.report["sources"]}
    return [source["path"] for source in evals.report["sources"] if source["blake3"] in trained]


def _wanted(prepared: Prepared, name: str, config: Config) -> int | None:
    """Rows to draw from a dataset: its num_samples, of which max_samples takes the first."""
    count = next((d.num_samples for d in prepared.datasets if d.name == name), None)
    return count if count is None or config.max_samples is None else min(count, config.max_samples)


def _draw(ids: Ids, count: int | None, seed: int) -> Ids:
    """``count`` of these at random, in their order; what goes beyond their number is drawn again."""
    if count is None or not len(ids):
        return ids
    passes, rest = divmod(count, len(ids))
    _, some = _core.split(len(ids), float(rest), seed)
    return np.sort(np.concatenate([np.tile(ids, passes), ids[some]]))


def _questions(evals: Sequence[Prepared]) -> Ids | None:
    columns = [questions for prepared in evals if (questions := prepared.open().questions) is not None]
    return np.concatenate(columns) if columns else None
