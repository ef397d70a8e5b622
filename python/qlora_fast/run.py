"""A whole training run: from a config to an output folder. The parts are made here and handed to the trainer."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qlora_fast import _core, base_model, checkpoint, durable, footprint, samples
from qlora_fast.adapter import Adapter
from qlora_fast.config import Config, dump
from qlora_fast.data import PreparedDataset
from qlora_fast.errors import TokenizerError
from qlora_fast.evaluation import EvalOptions, by_source, evaluate
from qlora_fast.forward import Forward
from qlora_fast.model import LoraSpec, Quantization, add_lora, count, load_base, pick_device, pick_dtype
from qlora_fast.optim import AdamW, AdamWOptions
from qlora_fast.outputs import (
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
from qlora_fast.planning import PlanOptions, epoch_plan, split
from qlora_fast.preparation import Progress as PrepareProgress
from qlora_fast.preparation import Tokenizer, prepare_config, tokenizer_of
from qlora_fast.probe import explained, longest_row, probe
from qlora_fast.ranks import Ranks, joined
from qlora_fast.samples import write_samples
from qlora_fast.schedule import Schedule, total_updates
from qlora_fast.trackers import Trackers
from qlora_fast.trainer import Hooks, Log, Trainer, TrainOptions

log = logging.getLogger(__name__)

_FREE_TO_CHANGE = {
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "logging_steps", "save_strategy", "save_steps",
    "save_total_limit", "eval_strategy", "eval_steps", "per_device_eval_batch_size", "compute_accuracy", "plot_loss",
    "load_best_model_at_end", "metric_for_best_model", "dataset", "dataset_dir", "eval_dataset", "prepared_dir", "engine",
    "threads", "world_size", "report_to", "run_name", "project", "per_device_train_batch_size",
    "gradient_accumulation_steps", "early_stopping_steps", "save_only_model", "gradient_checkpointing",
}  # fmt: skip
"""Settings that do not change what is learned; the data is compared by its fingerprint, the batch by its effect."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What a run tells its caller: log entries, each update, and what it is about to do."""

    on_log: Callable[[Log], None] = lambda _: None
    on_update: Callable[[int, int], None] = lambda *_: None
    on_prepare: PrepareProgress | None = None


@dataclass(slots=True)
class Data:
    """What is trained and evaluated on."""

    train: PreparedDataset
    train_ids: NDArray[np.int64]
    evals: PreparedDataset | None
    eval_ids: NDArray[np.int64]


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
    with ranks.in_turn():
        if ranks.first:
            claim_output(config)
        tokenizer = tokenizer_of(config)
        data = load_data(config, tokenizer, watch.on_prepare if ranks.first else None)
        base_model.model_path(config.model_name_or_path)  # a GGUF file is converted here
    device = pick_device(ranks.local_rank)
    dtype = pick_dtype("bf16" if config.bf16 else "fp16" if config.fp16 else config.dtype, device)

    model = make_model(config, tokenizer, dtype, device)
    adapter = Adapter(model)
    # Dropout is all that draws from torch's global generator, and differs from rank to rank.
    torch.manual_seed(config.seed + rank)
    forward = Forward(model, device, noise=config.neftune_noise_alpha or 0.0)
    packed = config.packing in ("exact", "dense")

    plans = PlanOptions.of(config, world)
    lengths = np.ascontiguousarray(data.train.lengths[data.train_ids])
    supervised = np.ascontiguousarray(data.train.supervised[data.train_ids])

    def plan_of_epoch(epoch: int) -> _core.EpochPlan:
        return epoch_plan(lengths, supervised, plans, epoch)

    per_epoch = len(plan_of_epoch(0).supervised)
    schedule = Schedule.of(config, total_updates(per_epoch, config.num_train_epochs, config.max_steps))
    optimizer = AdamW(
        adapter,
        AdamWOptions(
            kind=config.optim,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            ratios=_lora_plus(config),
            scaled=dtype == torch.float16,
        ),
    )
    identity = _identity(config, data, plans)
    progress = None
    if config.resume_from_checkpoint:
        newest = ranks.from_first(lambda: str(checkpoint.newest_whole(output) or ""))
        if not newest:
            log.info("no checkpoint in `%s` yet: starting from the beginning", output)
        else:
            progress = checkpoint.load_checkpoint(Path(newest), adapter, optimizer, identity)
            if rank == 0:
                # The killed run may have logged updates that are made again now.
                lines = [log_line(entry, schedule.updates) for entry in progress.log_history]
                durable.write_text(output / "trainer_log.jsonl", "".join(lines))
            log.info("going on from `%s`, update %d of %d", newest, progress.update, schedule.updates)

    epochs = -(-schedule.updates // per_epoch)
    longest = longest_row(data.train, data.train_ids, plan_of_epoch, epochs, packed)
    recomputed = probe(config, forward, adapter, data.train, longest)

    trackers = Trackers.of(config) if rank == 0 else Trackers()
    own, all_ = count(model)
    log.info(
        "%s samples, %s an update, %s updates (%s an epoch); %s of %s parameters are trained, %s on %s",
        f"{len(lengths):,}", plans.samples_per_update if config.packing != "dense" else "full rows",
        f"{schedule.updates:,}", f"{per_epoch:,}", f"{own:,}", f"{all_:,}", str(dtype).removeprefix("torch."), device,
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
            write_samples(output / samples.FILE, data.evals, data.eval_ids, *scores)
        return result

    def on_save(trainer: Trainer) -> None:
        only = config.save_only_model and not trainer.stopping
        checkpoint.save_checkpoint(output, model, adapter, optimizer, trainer.progress, identity, adapter_only=only)
        if rank == 0:
            write_adapter(output / "last", trainer, tokenizer, config)
            checkpoint.rotate(output, config.save_total_limit, trainer.progress.best_update)

    every_epoch = {"epoch": per_epoch}
    trainer = Trainer(
        forward, adapter, optimizer, schedule, data.train, data.train_ids, plan_of_epoch,
        TrainOptions(
            logging_steps=config.logging_steps,
            eval_every=every_epoch.get(config.eval_strategy, config.eval_steps if config.eval_strategy == "steps" else None),
            save_every=every_epoch.get(config.save_strategy, config.save_steps if config.save_strategy == "steps" else None),
            packed=packed,
            patience=config.early_stopping_steps,
        ),
        Hooks(on_log, on_eval, on_save, lambda t: watch.on_update(t.progress.update, schedule.updates)),
        rank=rank, world_size=world, progress=progress,
    )  # fmt: skip
    if rank == 0:
        durable.write_text(output / "config.yaml", dump(config))
    own_folder, about = output if rank == 0 else None, environment(config, data.train.fingerprint, device)
    with ending_noted(own_folder, about, trainer):
        with trackers, explained(config, data.train, longest):
            done = trainer.run()
            results = {**results_of(done, len(lengths), config), "ended": ending(trainer, config)}
            results["gradient_checkpointing"] = recomputed
            results["memory"] = {**footprint.parts(model, adapter, optimizer), "peak": footprint.peak(device)}
            trackers.finish(results)
        if rank == 0:
            finish_output(trainer, config, tokenizer, results)
    note_ending(own_folder, about, results["ended"])
    return results


def load_data(config: Config, tokenizer: Tokenizer, progress: PrepareProgress | None) -> Data:
    """Prepare the data, or find it prepared, and split it."""
    everything = prepare_config(config, tokenizer=tokenizer, progress=progress).open()
    if config.eval_dataset:
        evals = prepare_config(config, config.eval_dataset, tokenizer=tokenizer, progress=progress).open()
        return Data(everything, np.arange(len(everything)), evals, np.arange(len(evals)))
    train_ids, eval_ids = split(len(everything), config.val_size, config.seed)
    return Data(everything, train_ids, everything if len(eval_ids) else None, eval_ids)


def make_model(config: Config, tokenizer: Tokenizer, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The base model with a fresh adapter.

    Raises:
        TokenizerError: the tokenizer has ids that the model has no embedding for.
    """
    path = base_model.model_path(config.model_name_or_path)
    quantization = None
    if config.quantization_bit:
        quantization = Quantization(config.quantization_type, config.double_quantization, config.quantization_bit)
    model = load_base(path, dtype=dtype, device=device, packing=config.packing, quantization=quantization)
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    largest = base_model.largest_id(tokenizer.folder)
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
    return add_lora(model, spec, seed=config.seed, checkpointing=config.gradient_checkpointing == "true")


def _lora_plus(config: Config) -> dict[str, float]:
    """Multiples of the rate: of B, and of B on an embedding, whose rate the config gives as it is."""
    if config.loraplus_lr_ratio is None:
        return {}
    return {"b": config.loraplus_lr_ratio, "e": config.loraplus_lr_embedding / config.learning_rate}


def _identity(config: Config, data: Data, plans: PlanOptions) -> dict[str, Any]:
    """Everything that a resumed run must have in common with the run that it goes on with."""
    settings = {name: value for name, value in asdict(config).items() if name not in _FREE_TO_CHANGE}
    return {
        **settings,
        checkpoint.EFFECTIVE_BATCH: plans.samples_per_update,
        "data": data.train.fingerprint,
        "training_samples": hashlib.sha256(np.ascontiguousarray(data.train_ids).tobytes()).hexdigest()[:16],
    }
