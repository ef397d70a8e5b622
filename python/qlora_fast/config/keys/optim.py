"""Settings of the optimization: rate, schedule, optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qlora_fast.config.keys.table import at_least, below_one, key, positive, unless_unset, within

Schedule = Literal[
    "cosine",
    "linear",
    "constant",
    "constant_with_warmup",
    "cosine_with_min_lr",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
]
Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "adamw_bnb_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
]

SCHEDULE_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "cosine": ("num_cycles",),
    "linear": (),
    "constant": (),
    "constant_with_warmup": (),
    "cosine_with_min_lr": ("min_lr", "min_lr_rate", "num_cycles"),
    "cosine_with_restarts": ("num_cycles",),
    "polynomial": ("lr_end", "power"),
    "inverse_sqrt": ("timescale",),
    "warmup_stable_decay": (
        "num_decay_steps",
        "num_stable_steps",
        "warmup_type",
        "decay_type",
        "min_lr_ratio",
        "num_cycles",
    ),
}
"""What lr_scheduler_kwargs may hold: the arguments of transformers' schedules."""
SCHEDULE_WORDS = {"warmup_type", "decay_type"}
"""Those of them that are words (linear, cosine, 1-sqrt); the others are numbers."""


@dataclass(frozen=True, kw_only=True)
class OptimKeys:
    """How far, how fast and how long it learns."""

    learning_rate: float = key(5e-5, "peak step size; 1e-4 … 2e-4 is usual for LoRA", check=positive)
    lr_scheduler_type: Schedule = key("cosine", "how the step size falls after the warm-up", there="linear")
    lr_scheduler_kwargs: dict[str, str] = key(
        {}, "numbers of the schedule, such as {min_lr_rate: 0.1} for cosine_with_min_lr"
    )
    warmup_ratio: float = key(
        0.0, "share of the updates over which the step size rises", check=within(0, 1), unit="share"
    )
    warmup_steps: int = key(
        0,
        "the same as a count; wins over warmup_ratio",
        check=at_least(0),
        unit="updates",
    )
    num_train_epochs: float = key(3.0, "passes over the data", check=positive, unit="epochs")
    max_steps: int | None = key(
        None,
        "make N updates, whatever num_train_epochs says",
        check=unless_unset(at_least(1)),
        unit="updates",
    )
    optim: Optimizer = key(
        "adamw_torch",
        "AdamW, one fused kernel; 8-bit moments or paged ones through bitsandbytes (little to gain for LoRA)",
        lacks="other optimizers (adafactor, lion, sgd, …)",
    )
    weight_decay: float = key(0.0, "decoupled weight decay of AdamW", check=at_least(0))
    max_grad_norm: float = key(1.0, "clip the gradient's norm to this; 0 never clips", check=at_least(0))
    adam_beta1: float = key(0.9, "AdamW: decay of the mean", check=below_one)
    adam_beta2: float = key(0.999, "AdamW: decay of the square", check=below_one)
    adam_epsilon: float = key(1e-8, "AdamW: denominator's floor", check=positive)
    loraplus_lr_ratio: float | None = key(
        None, "LoRA+: B learns at this many times the rate of A; 16 is usual", check=unless_unset(positive)
    )
    loraplus_lr_embedding: float = key(1e-6, "LoRA+: step size of adapters on embeddings", check=positive)
    seed: int = key(42, "seed of order, split, adapter and dropout", check=at_least(0))
