"""Everything that a run needs before its first update, made from a config: data, model, adapter, optimizer.

A run trains with it, a dry run only times it.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from qlora_fast.config import Config
from qlora_fast.data import selection
from qlora_fast.data.batch import Batches, Row
from qlora_fast.data.findings import check, line
from qlora_fast.data.prepare import Progress as PrepareProgress
from qlora_fast.data.selection import RunData
from qlora_fast.data.tokenizer import Tokenizer, tokenizer_of
from qlora_fast.errors import OutOfMemoryError, TokenizerError
from qlora_fast.hub import resolve
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.load import pick_device, pick_dtype
from qlora_fast.model.lora import LoraSpec, add_lora, keep_activations
from qlora_fast.model.patch import report_of
from qlora_fast.model.products import Products, Wanted, Ways
from qlora_fast.model.shapes import known_shape
from qlora_fast.train import memory_usage
from qlora_fast.train.advice import advice
from qlora_fast.train.base import base_of
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.forward import Forward
from qlora_fast.train.health import check_base
from qlora_fast.train.kept import NOTHING_KEPT, Kept
from qlora_fast.train.memory_probe import longest_row, probe
from qlora_fast.train.optimizer import AdamW, AdamWOptions
from qlora_fast.train.parent import start_from
from qlora_fast.train.row_budget import RowBudget, is_open, named
from qlora_fast.train.row_fit import measured, shorter
from qlora_fast.train.schedule import Timetable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a process computes, and in which numbers."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, config: Config, ranks: Ranks) -> Machine:
        """The device of this process.

        Raises:
            ConfigError: the device cannot compute in the numbers that the config asks for.
        """
        device = pick_device(ranks.local_rank)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # streams, events and random numbers are those of the current one
        memory_usage.grow_segments(device)
        return cls(device, pick_dtype(config.precision, device))


@dataclass(slots=True)
class Setup:
    """Everything that a step of training needs, and the plan of all steps."""

    config: Config
    machine: Machine
    tokenizer: Tokenizer
    model_path: str
    """Where the base model was loaded from: a local folder, or a name on the Hub."""
    data: RunData
    batches: Batches
    timetable: Timetable
    model: nn.Module
    parent: dict[str, str] | None
    """The finished adapter that this run starts from, for run.json."""
    adapter: Adapter
    forward: Forward
    optimizer: AdamW
    longest: Row
    """The row that decides what memory is needed."""
    row_budget: RowBudget

    def probe(self, ranks: Ranks) -> bool:
        """Run the longest row; whether activations are recomputed. Where the machine decides, rows get shorter until one fits.

        Raises:
            OutOfMemoryError: it does not fit into memory.
        """
        while True:
            recomputed, failure = self._tried(ranks)
            stream = self.forward.stream
            if failure is not None and stream is not None and stream.source.shared:
                raise failure  # the others wait for this one inside of a layer
            if not ranks.any(failure is not None):
                return recomputed
            tokens = int(self.longest.input_ids.size)
            fewer = shorter(tokens, int(self.data.lengths.max())) if is_open(self.config) else None
            if fewer is None:
                raise failure or OutOfMemoryError(
                    f"a row of {tokens:,} tokens does not fit into memory on another rank"
                )
            log.info("rows of %s tokens do not fit after all; the next try has %s", f"{tokens:,}", f"{fewer.tokens:,}")
            self._cut(fewer)

    def _tried(self, ranks: Ranks) -> tuple[bool, OutOfMemoryError | None]:
        # A function of its own: an error that is still held keeps everything that its frames do.
        try:
            return probe(self.config, self.forward, self.adapter, self.data.train, self.longest, ranks), None
        except OutOfMemoryError as error:
            error.__cause__ = error.__context__ = None
            return False, error.with_traceback(None)

    def _cut(self, budget: RowBudget) -> None:
        if self.config.gradient_checkpointing == "auto":
            keep_activations(self.forward.model)  # the shorter row may fit without recomputing
        if self.machine.device.type == "cuda":
            torch.cuda.empty_cache()
        self.row_budget, self.data = budget, self.data.in_rows_of(budget.tokens)
        self.longest = longest_row(self.batches, self.data.plan_of_epoch, self.timetable.epochs)


def set_up(
    config: Config,
    machine: Machine,
    ranks: Ranks,
    progress: PrepareProgress | None = None,
    *,
    world: int | None = None,
    kept: Kept = NOTHING_KEPT,
) -> Setup:
    """Prepare the data, load the model, put an adapter on it.

    Args:
        world: devices to plan for; default those of ``ranks``.
        kept: what the machine decided for the run that is resumed.

    Raises:
        QloraFastError: anything that a user can fix.
    """
    with ranks.in_turn():
        tokenizer = tokenizer_of(config)
        data = selection.load(config, tokenizer, progress if ranks.first else None, world or ranks.world)
        model_path = resolve.model_path(config.model_name_or_path, config.verify)  # a GGUF file is converted here
    timetable = Timetable.of(config, len(data.plan_of_epoch(0).supervised))
    _report(config, data, timetable)
    model, parent = _model(config, model_path, tokenizer, machine, ranks, kept)
    for dataset in (data.train, data.evals):
        if dataset is not None:
            dataset.check_ids(_embeddings(model))
    adapter = Adapter(model)
    # Dropout is all that draws from torch's global generator, and differs from rank to rank.
    torch.manual_seed(config.seed + ranks.rank)
    batches = Batches(data.train, data.train_ids, data.plans.packed)
    forward = Forward(model, machine.device, noise=config.neftune_noise_alpha or 0.0)
    budget = _row_budget(config, data, batches, timetable, forward, kept.row_budget, ranks)
    data = data.in_rows_of(budget.tokens)
    return Setup(
        config=config,
        machine=machine,
        tokenizer=tokenizer,
        model_path=model_path,
        data=data,
        batches=batches,
        timetable=timetable,
        model=model,
        parent=parent,
        adapter=adapter,
        forward=forward,
        optimizer=AdamW(adapter, _optimizer_options(config, machine), kernels=report_of(model).kernels),
        longest=longest_row(batches, data.plan_of_epoch, timetable.epochs),
        row_budget=budget,
    )


def _row_budget(
    config: Config,
    data: RunData,
    batches: Batches,
    timetable: Timetable,
    forward: Forward,
    kept: int | None,
    ranks: Ranks,
) -> RowBudget:
    """What the config says, or what this machine decides."""
    if not is_open(config):
        return named(config)
    whole = longest_row(batches, data.in_whole_updates().plan_of_epoch, timetable.epochs)
    budget = measured(config, forward, data.train, int(whole.input_ids.size), int(data.lengths.max()), kept, ranks)
    log.info("max_tokens_per_row: auto is %s here: %s", f"{budget.tokens:,}", budget.why)
    return budget


def _report(config: Config, data: RunData, timetable: Timetable) -> None:
    """Log what the preparation found and what became of each dataset; refuse data that a run should not begin with.

    Raises:
        DataError, ConfigError: see :func:`~qlora_fast.data.findings.check`.
    """
    report, found = data.prepared.report, data.prepared.findings
    if config.model_name_or_path == resolve.EMBEDDED:
        log.info("model: %s, the embedded one; another: model_name_or_path=…", resolve.EMBEDDED)
    log.info("%s", line(report, found))
    check(report, found, config.max_dropped_share, config.train_beyond_max_positions)
    for text in advice(config, timetable, len(data.eval_ids), known_shape(config.model_name_or_path), data.seen):
        log.warning("%s", text)
    if len(data.shares) > 1 or config.mix_strategy != "concat" or config.deduplicate != "off":
        for share in data.shares:
            log.info("%s: %s", share.name, share)


def _model(
    config: Config, path: str, tokenizer: Tokenizer, machine: Machine, ranks: Ranks, kept: Kept
) -> tuple[nn.Module, dict[str, str] | None]:
    """The base model with its adapter, and the adapter that this one starts from.

    Raises:
        TokenizerError: the tokenizer has ids that the model has no embedding for.
        ArtifactError: the model cannot be loaded, or has weights that are not finite.
    """
    model = base_of(config, path, machine, ranks)
    check_base(model, config.model_name_or_path)
    rows = _embeddings(model)
    largest = resolve.largest_id(tokenizer.folder)
    if largest >= rows:
        raise TokenizerError(
            f"the tokenizer is not the model's: it has the id {largest:,}, the model {rows:,} embeddings",
            hint=f"put the model's own tokenizer.json into `{tokenizer.folder}`",
        )
    spec = LoraSpec(
        rank=config.lora_rank,
        alpha=config.alpha,
        dropout=config.lora_dropout,
        target=config.lora_target,
        also=config.additional_target,
        rslora=config.use_rslora,
        dora=config.use_dora,
        pissa=config.pissa_iter if config.pissa_init else None,
    )
    checkpointing = config.gradient_checkpointing == "true"
    adapted = add_lora(
        model,
        spec,
        seed=config.seed,
        checkpointing=checkpointing,
        kernels=config.kernels,
        products=Wanted(config.precision == "auto", kept.products, ranks.machine_size, partial(_agreed, ranks)),
    )
    now = report_of(adapted).products
    if kept.products not in (None, now.ways):
        log.warning(
            "frozen weights are not multiplied as at the checkpoint, so the run rounds differently: now by %s", now
        )
    parent = None if config.adapter_name_or_path is None else start_from(adapted, config, path)
    return adapted, parent


def _agreed(ranks: Ranks, found: Products) -> Ways:
    """The ways of rank 0 where they run on all ranks, else torch's: ranks that round differently make no one run."""
    exact, training = json.loads(ranks.from_first(lambda: json.dumps(found.ways)))
    return ("torch", "torch") if ranks.any(not {exact, training} <= set(found.run_here)) else (exact, training)


def _embeddings(model: nn.Module) -> int:
    """How many token ids a model has an embedding for."""
    count: int = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    return count


def _optimizer_options(config: Config, machine: Machine) -> AdamWOptions:
    ratios = {}
    if config.loraplus_lr_ratio is not None:
        # Multiples of the rate: of B, and of B on an embedding, whose rate the config gives as it is.
        ratios = {"b": config.loraplus_lr_ratio, "e": config.loraplus_lr_embedding / config.learning_rate}
    return AdamWOptions(
        kind=config.optim,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        ratios=ratios,
        scaled=machine.dtype == torch.float16,
    )
