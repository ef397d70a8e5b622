"""The parts of a run, made from a config: data, plan, model, adapter, optimizer. A run trains with them, a rehearsal
only times them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qlora_fast import _core
from qlora_fast.config import Config
from qlora_fast.data import selection
from qlora_fast.data.batch import Row
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.plan import PlanOptions, epoch_plan
from qlora_fast.data.prepare import Progress as PrepareProgress
from qlora_fast.data.prepare import prepare_config
from qlora_fast.data.tokenizer import Tokenizer, tokenizer_of
from qlora_fast.errors import TokenizerError
from qlora_fast.hub import resolve
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.load import Quantization, load_base, pick_device, pick_dtype
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.train import memory_usage
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.forward import Forward
from qlora_fast.train.memory_probe import longest_row
from qlora_fast.train.optimizer import AdamW, AdamWOptions
from qlora_fast.train.schedule import Schedule, total_updates

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Data:
    """What is trained and evaluated on."""

    train: PreparedDataset
    train_ids: NDArray[np.int64]
    evals: PreparedDataset | None
    eval_ids: NDArray[np.int64]


@dataclass(slots=True)
class Parts:
    """Everything that a step of training takes, and the plan of all steps."""

    config: Config
    tokenizer: Tokenizer
    data: Data
    device: torch.device
    dtype: torch.dtype
    model: nn.Module
    adapter: Adapter
    forward: Forward
    optimizer: AdamW
    plans: PlanOptions
    lengths: NDArray[np.uint32]
    supervised: NDArray[np.uint32]

    @property
    def packed(self) -> bool:
        return self.config.packed

    def plan_of_epoch(self, epoch: int) -> _core.EpochPlan:
        return epoch_plan(self.lengths, self.supervised, self.plans, epoch)

    def schedule(self, per_epoch: int) -> Schedule:
        updates = total_updates(per_epoch, self.config.num_train_epochs, self.config.max_steps)
        return Schedule.of(self.config, updates)

    def longest_row(self, epochs: int) -> Row:
        """The row that decides what memory is needed."""
        return longest_row(self.data.train, self.data.train_ids, self.plan_of_epoch, epochs, self.packed)


def make_parts(config: Config, ranks: Ranks, progress: PrepareProgress | None, world: int) -> Parts:
    """Prepare the data, load the model, put an adapter on it.

    Args:
        world: devices to plan for.

    Raises:
        QloraFastError: anything that a user can mend.
    """
    device, dtype = machine(config, ranks)
    with ranks.in_turn():
        tokenizer = tokenizer_of(config)
        data = load_data(config, tokenizer, progress if ranks.first else None)
        resolve.model_path(config.model_name_or_path)  # a GGUF file is converted here
    model = make_model(config, tokenizer, dtype, device)
    adapter = Adapter(model)
    # Dropout is all that draws from torch's global generator, and differs from rank to rank.
    torch.manual_seed(config.seed + ranks.rank)
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
    return Parts(
        config=config,
        tokenizer=tokenizer,
        data=data,
        device=device,
        dtype=dtype,
        model=model,
        adapter=adapter,
        forward=Forward(model, device, noise=config.neftune_noise_alpha or 0.0),
        optimizer=optimizer,
        plans=PlanOptions.of(config, world),
        lengths=np.ascontiguousarray(data.train.lengths[data.train_ids]),
        supervised=np.ascontiguousarray(data.train.supervised[data.train_ids]),
    )


def machine(config: Config, ranks: Ranks) -> tuple[torch.device, torch.dtype]:
    """Where a process computes, and in which numbers.

    Raises:
        ConfigError: the device does not have them.
    """
    device = pick_device(ranks.local_rank)
    memory_usage.grow_segments(device)
    return device, pick_dtype(config.precision, device)


def load_data(config: Config, tokenizer: Tokenizer, progress: PrepareProgress | None) -> Data:
    """Prepare the data, or find it prepared, and split it."""
    prepared = prepare_config(config, tokenizer=tokenizer, progress=progress)
    evals = None
    if config.eval_dataset:
        evals = prepare_config(config, config.eval_dataset, tokenizer=tokenizer, progress=progress)
    chosen = selection.select(prepared, config, [evals] if evals else [])
    if len(chosen.shares) > 1 or config.mix_strategy != "concat" or config.deduplicate != "off":
        for share in chosen.shares:
            log.info("%s: %s", share.name, share)
    everything = prepared.open()
    if evals is not None:
        return Data(everything, chosen.train_ids, evals.open(), selection.eval_rows(evals, config))
    return Data(everything, chosen.train_ids, everything if len(chosen.eval_ids) else None, chosen.eval_ids)


def make_model(config: Config, tokenizer: Tokenizer, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The base model with a fresh adapter.

    Raises:
        TokenizerError: the tokenizer has ids that the model has no embedding for.
    """
    path = resolve.model_path(config.model_name_or_path)
    model = load_base(path, dtype=dtype, device=device, packing=config.packing, quantization=Quantization.of(config))
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
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
    return add_lora(model, spec, seed=config.seed, checkpointing=checkpointing, kernels=config.kernels)


def _lora_plus(config: Config) -> dict[str, float]:
    """Multiples of the rate: of B, and of B on an embedding, whose rate the config gives as it is."""
    if config.loraplus_lr_ratio is None:
        return {}
    return {"b": config.loraplus_lr_ratio, "e": config.loraplus_lr_embedding / config.learning_rate}
