"""The rival: ``transformers.Trainer`` + PEFT on padded batches, given the very same samples in the same order."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from qlora_fast.data.dataset import PreparedDataset


@dataclass
class Curve:
    """What a training run showed: one entry per update, and the seconds of the loop."""

    loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0
    ends: list[float] = field(default_factory=list)
    """When each update ended, in seconds since the loop began; the device has been waited for."""


class _Ordered(Dataset):  # type: ignore[type-arg]
    """The samples of a prepared dataset in a given order, as the collator of transformers wants them."""

    def __init__(self, dataset: PreparedDataset, order: NDArray[np.int64]) -> None:
        self.samples = [
            {"input_ids": s["input_ids"].tolist(), "labels": s["labels"].tolist()}
            for s in (dataset[int(i)] for i in order)
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.samples[index]


class _InOrder(Trainer):
    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> SequentialSampler:  # type: ignore[type-arg]
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)


class _Watch(TrainerCallback):
    def __init__(self, curve: Curve) -> None:
        self.curve = curve

    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.curve.ends.append(time.perf_counter() - self.started)

    def on_log(
        self, args: object, state: object, control: object, logs: dict[str, float] | None = None, **kw: object
    ) -> None:
        if logs and "loss" in logs:
            self.curve.loss.append(float(logs["loss"]))
            self.curve.grad_norm.append(float(logs["grad_norm"]))

    def on_train_end(self, *args: object, **kwargs: object) -> None:
        self.curve.seconds = time.perf_counter() - self.started


def _pad(features: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Pad on the right to the longest of the batch: the usual collator, without its tokenizer."""
    longest = max(len(f["input_ids"]) for f in features)

    def stack(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([f[name] + [fill] * (longest - len(f[name])) for f in features])

    mask = torch.tensor([[1] * len(f["input_ids"]) + [0] * (longest - len(f["input_ids"])) for f in features])
    return {"input_ids": stack("input_ids", 0), "labels": stack("labels", -100), "attention_mask": mask}


def train(
    model: torch.nn.Module,
    dataset: PreparedDataset,
    order: NDArray[np.int64],
    *,
    batch: int,
    accumulation: int,
    learning_rate: float,
    bf16: bool = False,
    scheduler: str = "cosine",
    callbacks: Sequence[TrainerCallback] = (),
) -> Curve:
    """One epoch over ``order`` in padded micro-batches of ``batch``, logging each update."""
    curve = Curve()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=1,
            learning_rate=learning_rate,
            lr_scheduler_type=scheduler,
            warmup_steps=0,
            weight_decay=0.0,
            max_grad_norm=1.0,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            seed=0,
        )
        trainer = _InOrder(
            model=model,
            args=arguments,
            train_dataset=_Ordered(dataset, order),
            data_collator=_pad,
            callbacks=[_Watch(curve), *callbacks],
        )
        trainer.train()
    return curve
