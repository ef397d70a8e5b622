"""Every setting, once: its name, type, default, limits and effect.

The names are the guide's and LLaMA-Factory's. This table drives the YAML reader, the `key=value` overrides, the
defaults and the documentation; a setting that is not here does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, TypeVar

Format = Literal["auto", "alpaca", "sharegpt", "messages"]
Truncation = Literal["structure", "llamafactory", "drop"]
Packing = Literal["exact", "dense", "bucketed", "none"]
Engine = Literal["auto", "fastokens", "tokenizers"]
Schedule = Literal[
    "cosine", "linear", "constant", "constant_with_warmup", "cosine_with_min_lr", "cosine_with_restarts", "polynomial",
    "inverse_sqrt", "warmup_stable_decay",
]  # fmt: skip
Optimizer = Literal[
    "adamw_torch", "adamw_torch_fused", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit"
]
Switch = Literal["auto", "true", "false"]
When = Literal["no", "steps", "epoch"]
Dtype = Literal["auto", "bf16", "fp16", "fp32"]
QuantizationType = Literal["nf4", "fp4"]

T = TypeVar("T")
Check = Callable[[Any], str | None]


def key(default: T, help: str, *, check: Check | None = None) -> T:
    """A setting: its default, what it does, and what must hold of its value."""
    metadata = {"help": help, "check": check}
    if isinstance(default, dict | list):
        made: Any = field(default_factory=lambda: type(default)(default), metadata=metadata)
    else:
        made = field(default=default, metadata=metadata)
    return made  # type: ignore[no-any-return]


def at_least(low: float) -> Check:
    return lambda value: None if value >= low else f"must be at least {low}, not {value}"


def positive(value: float) -> str | None:
    return None if value > 0 else f"must be greater than 0, not {value}"


def unless_unset(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def within(low: float, high: float) -> Check:
    return lambda value: None if low <= value <= high else f"must lie in {low} … {high}, not {value}"


def below_one(value: float) -> str | None:
    return None if 0 <= value < 1 else f"must lie in 0 … 1 (1 excluded), not {value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One run, fully described. Built by :func:`qlora_fast.config.load`; equal configs give equal runs."""

    # --- model
    model_name_or_path: str = key(
        "smollm2-135m-instruct",
        "base model: a folder, a .gguf file, a hub id, or the embedded smollm2-135m-instruct",
    )
    template: str = key("auto", "chat template; auto takes the built-in one that renders as the model's own does")
    default_system: str | None = key(None, "system prompt of rows without one; '' for none; unset: the template's own")
    dtype: Dtype = key("auto", "weights of the frozen base: auto is bf16 where the hardware is fast at it, else fp32")
    bf16: bool = key(False, "the guide's spelling of dtype: bf16")
    fp16: bool = key(False, "the guide's spelling of dtype: fp16, with a scaled loss; for GPUs without bf16")
    quantization_bit: int | None = key(
        None,
        "4 loads the base in 4 bits (QLoRA): a quarter of the memory, slower steps; 8 is LLM.int8(): half of it",
        check=lambda v: None if v in (None, 4, 8) else f"must be 4 or 8 (or be left out), not {v}",
    )
    quantization_method: Literal["bnb"] = key("bnb", "library of the 4-bit kernels: bitsandbytes")
    quantization_type: QuantizationType = key("nf4", "4-bit code book; nf4 fits normally distributed weights")
    double_quantization: bool = key(True, "also quantize the scales: 0.4 bits a weight less")

    # --- LoRA
    lora_rank: int = key(8, "width r of the adapter; more learns more and costs more memory", check=at_least(1))
    lora_alpha: float | None = key(None, "scale is alpha/rank; unset: 2·rank", check=unless_unset(positive))
    lora_dropout: float = key(0.0, "dropout on the adapter's input", check=below_one)
    lora_target: list[str] = key(["all"], "layers that get an adapter: all, or names such as q_proj,v_proj")
    additional_target: list[str] = key(
        [], "modules trained and saved in full beside the adapter: embed_tokens, lm_head"
    )
    use_rslora: bool = key(False, "scale by alpha/√rank instead of alpha/rank, so that a high rank learns as fast")
    use_dora: bool = key(False, "DoRA: also learn each output's length; a little better at low rank, slower")
    pissa_init: bool = key(False, "PiSSA: start from the base's largest singular directions instead of from nothing")
    pissa_iter: int = key(16, "power iterations of PiSSA's decomposition; -1 is the exact one", check=at_least(-1))

    # --- data
    dataset: list[str] = key(["identity", "general"], "training data: files, or the embedded identity and general")
    dataset_dir: str = key(".", "folder that relative dataset names start from")
    eval_dataset: list[str] = key([], "files to evaluate on, instead of val_size")
    val_size: float = key(
        0.0, "hold out for evaluation: below 1 a share of the rows, from 1 on a count", check=at_least(0)
    )
    format: Format = key("auto", "record format; auto looks at the first records of each file")
    variables: dict[str, str] = key({}, "text for {{placeholders}} in the data, such as name and author")
    cutoff_len: int = key(2048, "longest sample, in tokens; see truncation", check=at_least(8))
    truncation: Truncation = key(
        "structure",
        "what happens beyond cutoff_len: keep the template whole, LLaMA-Factory's rule, or drop the row",
    )
    train_on_prompt: bool = key(False, "learn the prompts too, not only the answers")
    mask_history: bool = key(False, "learn only the last answer of a conversation")
    max_samples: int | None = key(None, "only the first N rows of each file", check=unless_unset(at_least(1)))
    strict: bool = key(False, "refuse a file with a row that would be dropped, instead of counting it")
    prepared_dir: str = key("prepared", "where prepared datasets are kept, one folder a fingerprint")
    engine: Engine = key("auto", "tokenizer engine; both give the same ids")
    threads: int = key(0, "threads of the preparation; 0 takes all cores", check=at_least(0))

    # --- batch
    packing: Packing = key(
        "exact",
        "exact: each update holds the samples of the plain run, without padding; dense: full rows, fewer updates; "
        "bucketed: sorted and padded; none: the textbook",
    )
    per_device_train_batch_size: int = key(4, "samples of a micro-batch on each device", check=at_least(1))
    gradient_accumulation_steps: int = key(4, "micro-batches of an update", check=at_least(1))
    max_tokens_per_row: int | None = key(
        None, "token budget of a packed row; unset: cutoff_len", check=unless_unset(at_least(8))
    )
    world_size: int = key(1, "number of devices (plan only; train asks the launcher)", check=at_least(1))

    # --- optimization
    learning_rate: float = key(5e-5, "peak step size", check=positive)
    lr_scheduler_type: Schedule = key("cosine", "how the step size falls after the warm-up")
    warmup_ratio: float = key(0.0, "share of the updates over which the step size rises", check=within(0, 1))
    warmup_steps: int = key(0, "the same as a count; wins over warmup_ratio", check=at_least(0))
    num_train_epochs: float = key(3.0, "passes over the data", check=positive)
    max_steps: int | None = key(None, "stop after N updates", check=unless_unset(at_least(1)))
    lr_scheduler_kwargs: dict[str, str] = key(
        {},
        "more about the schedule, in transformers' names: min_lr, min_lr_rate, num_cycles, power, lr_end, timescale, "
        "num_decay_steps, num_stable_steps, min_lr_ratio",
    )
    optim: Optimizer = key(
        "adamw_torch", "optimizer; 8 bits and paging save little here: an adapter's state is small beside its model"
    )
    loraplus_lr_ratio: float | None = key(
        None, "LoRA+: B learns at learning_rate times this (16 is usual)", check=unless_unset(positive)
    )
    neftune_noise_alpha: float | None = key(
        None, "NEFTune: noise on the embeddings while training (5 is usual)", check=unless_unset(positive)
    )
    weight_decay: float = key(0.0, "decoupled weight decay of AdamW", check=at_least(0))
    max_grad_norm: float = key(1.0, "clip the gradient's norm to this; 0 never clips", check=at_least(0))
    adam_beta1: float = key(0.9, "AdamW: decay of the mean", check=below_one)
    adam_beta2: float = key(0.999, "AdamW: decay of the square", check=below_one)
    adam_epsilon: float = key(1e-8, "AdamW: denominator's floor", check=positive)
    gradient_checkpointing: Switch = key(
        "auto", "recompute activations: less memory, half as much computation again; auto: only when memory asks for it"
    )
    seed: int = key(42, "seed of order, split, adapter and dropout", check=at_least(0))

    # --- evaluation
    eval_strategy: When = key("no", "when to evaluate")
    eval_steps: int = key(50, "updates between evaluations (eval_strategy: steps)", check=at_least(1))
    per_device_eval_batch_size: int = key(
        8, "samples of an evaluation row; changes speed, not the result", check=at_least(1)
    )
    load_best_model_at_end: bool = key(False, "end with the adapter of the best evaluation")
    metric_for_best_model: Literal["eval_loss", "eval_accuracy"] = key("eval_loss", "what best means")
    early_stopping_steps: int | None = key(
        None, "end after so many evaluations without a better one", check=unless_unset(at_least(1))
    )
    compute_accuracy: bool = key(False, "also report eval_accuracy, the share of tokens predicted rightly")

    # --- output
    output_dir: str = key("runs/run", "folder of the run")
    overwrite_output_dir: bool = key(False, "move an earlier run in output_dir aside and start anew")
    resume_from_checkpoint: bool = key(False, "go on from the newest whole checkpoint in output_dir")
    logging_steps: int = key(10, "updates between log lines", check=at_least(1))
    save_strategy: When = key("steps", "when to write checkpoints")
    save_steps: int = key(100, "updates between checkpoints (save_strategy: steps)", check=at_least(1))
    save_total_limit: int | None = key(
        None, "checkpoints kept (best and newest always are)", check=unless_unset(at_least(1))
    )
    save_only_model: bool = key(False, "checkpoints hold the adapter alone; such a run cannot be resumed")
    plot_loss: bool = key(True, "draw training_loss.png and training_eval_loss.png")

    @property
    def alpha(self) -> float:
        """lora_alpha, or its default of twice the rank."""
        return 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha

    @property
    def row_budget(self) -> int:
        """Tokens that a packed row may hold."""
        return self.max_tokens_per_row or self.cutoff_len

    @property
    def has_eval(self) -> bool:
        """Whether anything is held out or given to evaluate on."""
        return self.val_size > 0 or bool(self.eval_dataset)


KEYS: dict[str, Field[Any]] = {f.name: f for f in fields(Config)}


def cross_checks(config: Config) -> list[tuple[str, str]]:
    """What must hold between settings: (key, problem) pairs."""
    problems = []
    if config.eval_dataset and config.val_size > 0:
        problems.append(("eval_dataset", "stands beside val_size; give one of the two"))
    if config.eval_strategy != "no" and not config.has_eval:
        problems.append(("eval_strategy", "has nothing to evaluate on; set val_size or eval_dataset"))
    if config.load_best_model_at_end and config.eval_strategy == "no":
        problems.append(("load_best_model_at_end", "needs evaluations; set eval_strategy to steps or epoch"))
    if config.metric_for_best_model == "eval_accuracy" and not config.compute_accuracy:
        problems.append(("metric_for_best_model", "is eval_accuracy; set compute_accuracy: true"))
    if config.overwrite_output_dir and config.resume_from_checkpoint:
        problems.append(("resume_from_checkpoint", "stands beside overwrite_output_dir; give one of the two"))
    for name in ("bf16", "fp16"):
        if getattr(config, name) and config.dtype not in ("auto", name):
            problems.append((name, f"contradicts dtype: {config.dtype}"))
    if config.bf16 and config.fp16:
        problems.append(("fp16", "stands beside bf16; give one of the two"))
    if config.pissa_init and config.quantization_bit:
        problems.append(
            ("pissa_init", "takes the base's weights apart, which needs them in 16 bits; leave quantization_bit out")
        )
    if config.pissa_init and config.use_dora:
        problems.append(
            ("pissa_init", "cannot be saved as a plain adapter together with use_dora; give one of the two")
        )
    if config.early_stopping_steps and config.eval_strategy == "no":
        problems.append(("early_stopping_steps", "counts evaluations; set eval_strategy to steps or epoch"))
    if config.val_size >= 1 and config.val_size != int(config.val_size):
        problems.append(("val_size", "from 1 on it is a count and must be whole"))
    return problems
