"""Settings of the optimization: rate, schedule, optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qlora_fast.config.keys.table import Count, NotNegative, Positive, Share, ShareBelowOne, Whole, key

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

SCHEDULE_ARGUMENTS: dict[Schedule, tuple[str, ...]] = {
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
"""Names that lr_scheduler_kwargs may hold: the arguments of transformers' schedules."""
SCHEDULE_WORDS = {"warmup_type", "decay_type"}
"""The arguments that are words (linear, cosine, 1-sqrt); the others are numbers."""


@dataclass(frozen=True, kw_only=True)
class OptimKeys:
    """Learning rate, schedule, optimizer, length of the run."""

    learning_rate: Positive = key(5e-5, "peak learning rate; 1e-4 … 2e-4 is usual for LoRA", affects="learning")
    lr_scheduler_type: Schedule = key(
        "cosine", "how the learning rate falls after the warm-up", there="linear", affects="learning"
    )
    lr_scheduler_kwargs: dict[str, str] = key(
        {}, "numbers of the schedule, such as {min_lr_rate: 0.1} for cosine_with_min_lr", affects="learning"
    )
    warmup_ratio: Share = key(
        0.0, "share of the optimizer steps over which the learning rate rises", unit="share", affects="learning"
    )
    warmup_steps: Whole = key(
        0, "the same as a count; takes precedence over warmup_ratio", unit="steps", affects="learning"
    )
    num_train_epochs: Positive = key(3.0, "passes over the data", unit="epochs", affects="learning")
    max_steps: Count | None = key(
        None, "number of optimizer steps; overrides num_train_epochs", unit="steps", affects="learning"
    )
    optim: Optimizer = key(
        "adamw_torch",
        "AdamW as one fused kernel, or bitsandbytes' with 8-bit or paged moments (little to gain for LoRA)",
        lacks="other optimizers (adafactor, lion, sgd, …)",
        affects="learning",
    )
    weight_decay: NotNegative = key(0.0, "decoupled weight decay of AdamW", affects="learning")
    max_grad_norm: NotNegative = key(1.0, "clip the gradient's norm to this; 0: no clipping", affects="learning")
    adam_beta1: ShareBelowOne = key(0.9, "AdamW: decay of the mean of the gradients", affects="learning")
    adam_beta2: ShareBelowOne = key(0.999, "AdamW: decay of the mean of the squared gradients", affects="learning")
    adam_epsilon: Positive = key(1e-8, "AdamW: added to the denominator", affects="learning")
    loraplus_lr_ratio: Positive | None = key(
        None, "LoRA+: learning rate of B divided by that of A; 16 is usual", affects="learning"
    )
    loraplus_lr_embedding: Positive = key(1e-6, "LoRA+: learning rate of adapters on embeddings", affects="learning")
    seed: Whole = key(42, "seed of order, split, adapter and dropout", affects="learning")
