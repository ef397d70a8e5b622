"""A whole training run: from a config to an output folder. The parts are made here and handed to the trainer."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from qlora_fast import _core, base_model, checkpoint, durable
from qlora_fast.adapter import Adapter
from qlora_fast.config import Config, dump
from qlora_fast.data import PreparedDataset
from qlora_fast.errors import ArtifactError, TokenizerError
from qlora_fast.evaluation import EvalOptions, evaluate
from qlora_fast.forward import Forward
from qlora_fast.generate import write_card
from qlora_fast.model import LoraSpec, Quantization, add_lora, count, load_base, pick_device, pick_dtype
from qlora_fast.optim import AdamW, AdamWOptions
from qlora_fast.planning import PlanOptions, epoch_plan, split
from qlora_fast.plots import plot_losses
from qlora_fast.preparation import Progress as PrepareProgress
from qlora_fast.preparation import Tokenizer, prepare_config, tokenizer_of
from qlora_fast.schedule import Schedule, total_updates
from qlora_fast.trainer import Hooks, Log, Progress, Trainer, TrainOptions

log = logging.getLogger(__name__)

MARK = "run.json"
"""Marks a folder as a run of this program: only such a folder is ever moved aside or written into."""
_FREE_TO_CHANGE = {
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "logging_steps", "save_strategy", "save_steps",
    "save_total_limit", "eval_strategy", "eval_steps", "per_device_eval_batch_size", "compute_accuracy", "plot_loss",
    "load_best_model_at_end", "metric_for_best_model", "dataset", "dataset_dir", "eval_dataset", "prepared_dir", "engine",
    "threads", "world_size",
}  # fmt: skip
"""Settings that do not change what is learned; the data is compared by its fingerprint."""


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
    watch = watch or Watch()
    rank, world = _join_ranks()
    output = Path(config.output_dir)
    if rank == 0:
        claim_output(config)
    device = pick_device(int(os.environ.get("LOCAL_RANK", "0")))
    dtype = pick_dtype("bf16" if config.bf16 else config.dtype, device)
    tokenizer = tokenizer_of(config)
    data = load_data(config, tokenizer, watch.on_prepare)

    model = make_model(config, tokenizer, dtype, device)
    adapter = Adapter(model)
    # Dropout is all that draws from torch's global generator, and differs from rank to rank.
    torch.manual_seed(config.seed + rank)
    forward = Forward(model, device)
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
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
        ),
    )
    identity = _identity(config, data, world)
    progress = None
    if config.resume_from_checkpoint:
        newest = checkpoint.newest_whole(output)
        if newest is None:
            log.info("no checkpoint in `%s` yet: starting from the beginning", output)
        else:
            progress = checkpoint.load_checkpoint(newest, adapter, optimizer, identity)
            if rank == 0:
                # The killed run may have logged updates that are made again now.
                lines = [_log_line(entry, schedule.updates) for entry in progress.log_history]
                durable.write_text(output / "trainer_log.jsonl", "".join(lines))
            log.info("going on from `%s`, update %d of %d", newest, progress.update, schedule.updates)

    own, all_ = count(model)
    log.info(
        "%s samples, %s an update, %s updates (%s an epoch); %s of %s parameters are trained, %s on %s",
        f"{len(lengths):,}", plans.samples_per_update if config.packing != "dense" else "full rows",
        f"{schedule.updates:,}", f"{per_epoch:,}", f"{own:,}", f"{all_:,}", str(dtype).removeprefix("torch."), device,
    )  # fmt: skip

    def on_log(trainer: Trainer, entry: Log) -> None:
        if rank == 0:
            with (output / "trainer_log.jsonl").open("a", encoding="utf-8") as file:
                file.write(_log_line(entry, schedule.updates))
            watch.on_log(entry)

    def on_eval(trainer: Trainer) -> Log | None:
        if data.evals is None or not len(data.eval_ids):
            return None
        options = EvalOptions(config.per_device_eval_batch_size, config.row_budget, packed, config.compute_accuracy)
        result = evaluate(forward, data.evals, data.eval_ids, options, rank=rank, world_size=world)
        _keep_best(config, trainer, result, tokenizer, output if rank == 0 else None)
        return result

    def on_save(trainer: Trainer) -> None:
        checkpoint.save_checkpoint(output, model, adapter, optimizer, trainer.progress, identity)
        if rank == 0:
            checkpoint.rotate(output, config.save_total_limit, trainer.progress.best_update)

    every_epoch = {"epoch": per_epoch}
    trainer = Trainer(
        forward, adapter, optimizer, schedule, data.train, data.train_ids, plan_of_epoch,
        TrainOptions(
            logging_steps=config.logging_steps,
            eval_every=every_epoch.get(config.eval_strategy, config.eval_steps if config.eval_strategy == "steps" else None),
            save_every=every_epoch.get(config.save_strategy, config.save_steps if config.save_strategy == "steps" else None),
            packed=packed,
        ),
        Hooks(on_log, on_eval, on_save, lambda t: watch.on_update(t.progress.update, schedule.updates)),
        rank=rank, world_size=world, progress=progress,
    )  # fmt: skip
    if rank == 0:
        durable.write_text(output / "config.yaml", dump(config))
        durable.write_text(output / MARK, json.dumps(_environment(config, data, device), indent=2))
    done = trainer.run()
    results = _results(done, len(lengths), config)
    if rank == 0:
        finish_output(trainer, config, tokenizer, results)
    if world > 1:
        dist.destroy_process_group()
    return results


def _log_line(entry: Log, updates: int) -> str:
    return json.dumps({**entry, "total_steps": updates}) + "\n"


def claim_output(config: Config) -> None:
    """Make the run's folder, or take it over as the config says; what is not ours is never touched.

    Raises:
        ArtifactError: the folder holds a run, or something else.
    """
    output = Path(config.output_dir)
    if output.is_dir() and any(output.iterdir()):
        if not (output / MARK).is_file():
            raise ArtifactError(
                f"`{output}` is not empty and not a run of qlora-fast; nothing in it was touched",
                hint="give another output_dir",
            )
        if config.overwrite_output_dir:
            aside = output.with_name(f"{output.name}.old-{time.strftime('%Y%m%d-%H%M%S')}")
            output.rename(aside)
            log.info("the earlier run was moved to `%s`", aside)
        elif not config.resume_from_checkpoint:
            raise ArtifactError(
                f"`{output}` holds a run already",
                hint="resume_from_checkpoint=true goes on with it, overwrite_output_dir=true moves it aside, "
                "output_dir=… starts another",
            )
    output.mkdir(parents=True, exist_ok=True)
    durable.recover(output)


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
        quantization = Quantization(config.quantization_type, config.double_quantization)
    model = load_base(path, dtype=dtype, device=device, packing=config.packing, quantization=quantization)
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    largest = base_model.largest_id(tokenizer.folder)
    if largest >= rows:
        raise TokenizerError(
            f"the tokenizer is not the model's: it has the id {largest:,}, the model {rows:,} embeddings",
            hint=f"put the model's own tokenizer.json into `{tokenizer.folder}`",
        )
    spec = LoraSpec(config.lora_rank, config.alpha, config.lora_dropout, config.lora_target)
    return add_lora(model, spec, seed=config.seed, checkpointing=config.gradient_checkpointing)


def finish_output(trainer: Trainer, config: Config, tokenizer: Tokenizer, results: dict[str, Any]) -> None:
    """The guide's output folder, name for name."""
    output, progress = Path(config.output_dir), trainer.progress
    _write_adapter(output / "last", trainer, tokenizer, config)
    source = output / "best" if config.load_best_model_at_end and (output / "best").is_dir() else output / "last"
    for file in source.iterdir():
        shutil.copy2(file, output / file.name)
    groups = {
        "train_results.json": {k: v for k, v in results.items() if not k.startswith("eval_") and k != "perplexity"},
        "eval_results.json": {
            k: v for k, v in results.items() if k.startswith("eval_") or k in ("perplexity", "epoch")
        },
        "all_results.json": results,
        "trainer_state.json": checkpoint.trainer_state(progress),
    }
    if "eval_loss" not in results:
        del groups["eval_results.json"]
    for name, content in groups.items():
        durable.write_text(output / name, json.dumps(content, indent=2))
    if config.plot_loss:
        plot_losses(progress.log_history, output, f"{config.model_name_or_path}, rank {config.lora_rank}")
    durable.write_text(output / "README.md", _model_card(config, results))


def _keep_best(config: Config, trainer: Trainer, result: Log, tokenizer: Tokenizer, output: Path | None) -> None:
    value = result[config.metric_for_best_model]
    best = trainer.progress.best_metric
    better = best is None or (value > best if config.metric_for_best_model == "eval_accuracy" else value < best)
    if better:
        trainer.progress.best_metric, trainer.progress.best_update = value, trainer.progress.update
        if output is not None:
            _write_adapter(output / "best", trainer, tokenizer, config)


def _write_adapter(folder: Path, trainer: Trainer, tokenizer: Tokenizer, config: Config) -> None:
    """An adapter folder that PEFT loads and `chat` understands."""
    with durable.new_folder(folder) as made:
        checkpoint.write_adapter(made, trainer.forward.model, trainer.adapter, config.model_name_or_path)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if (tokenizer.folder / name).is_file():
                shutil.copyfile(tokenizer.folder / name, made / name)
        write_card(made, config.model_name_or_path, tokenizer, base_model.digest(tokenizer.folder / "tokenizer.json"))


def _results(progress: Progress, samples: int, config: Config) -> dict[str, Any]:
    losses = [(e["loss"], e["step"]) for e in progress.log_history if "loss" in e]
    # Each entry is the mean since the one before it, so it weighs as many updates as it covers.
    weights = np.diff([0.0, *(step for _, step in losses)])
    results: dict[str, Any] = {
        "epoch": progress.log_history[-1]["epoch"] if progress.log_history else 0.0,
        "train_loss": float(np.average([loss for loss, _ in losses], weights=weights)) if losses else None,
        "train_runtime": progress.seconds,
        "train_steps": progress.update,
        "train_samples": samples,
        "train_steps_per_second": progress.update / max(progress.seconds, 1e-9),
    }
    evals = [e for e in progress.log_history if "eval_loss" in e]
    if evals:
        last = evals[-1]
        if config.load_best_model_at_end and progress.best_update is not None:
            last = next(e for e in evals if e["step"] == progress.best_update)
        results |= {k: v for k, v in last.items() if k not in ("step", "epoch")}
        results["best_metric"], results["best_step"] = progress.best_metric, progress.best_update
    return results


def _identity(config: Config, data: Data, world: int) -> dict[str, Any]:
    """Everything that a resumed run must have in common with the run that it goes on with."""
    settings = {name: value for name, value in asdict(config).items() if name not in _FREE_TO_CHANGE}
    return {
        **settings,
        "world": world,
        "data": data.train.fingerprint,
        "training_samples": hashlib.sha256(np.ascontiguousarray(data.train_ids).tobytes()).hexdigest()[:16],
    }


def _environment(config: Config, data: Data, device: torch.device) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "qlora_fast": _core.__version__,
        "command": sys.argv,
        "data": data.train.fingerprint,
        "seed": config.seed,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "tokenizers", "numpy")},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
    }


def _model_card(config: Config, results: dict[str, Any]) -> str:
    numbers = "".join(f"| {k} | {v:.4g} |\n" for k, v in results.items() if isinstance(v, float) and math.isfinite(v))
    return (
        f"---\nbase_model: {config.model_name_or_path}\nlibrary_name: peft\ntags: [lora]\n---\n\n"
        f"A LoRA adapter (rank {config.lora_rank}, alpha {config.alpha:g}) of `{config.model_name_or_path}`, trained with "
        f"qlora-fast on {', '.join(config.dataset)}. All settings: `config.yaml`.\n\n| | |\n|---|---|\n{numbers}"
    )


def _join_ranks() -> tuple[int, int]:
    """(rank, world size), from the launcher's environment; joins the other ranks."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return int(os.environ.get("RANK", "0")), world
