"""Settings suggested for data, a model and this machine, each with its reason: what ``qlora-fast init`` writes.

No torch at import.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qlora_fast.config import Config, of
from qlora_fast.config.explain import text
from qlora_fast.data import report
from qlora_fast.data.findings import max_positions
from qlora_fast.data.length_stats import counts
from qlora_fast.data.plan import PlanOptions
from qlora_fast.data.prepare import Progress, prepare_config
from qlora_fast.data.tokenizer import tokenizer_of
from qlora_fast.hub import resolve, untrusted
from qlora_fast.model import host
from qlora_fast.model.memory_estimate import Memory, Method, Shape, estimate
from qlora_fast.model.shapes import gb, shape_of
from qlora_fast.train.row_budget import FIT, GPU_ROW
from qlora_fast.train.schedule import total_updates, updates_per_epoch

_SMALL = 500_000_000
"""Parameters of a model that learns well only at a higher rate."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting, its value, and why."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a run would compute. ``free``: bytes of memory that it can have."""

    gpu: str | None
    free: int
    bf16: bool

    @classmethod
    def here(cls) -> Machine:
        import torch

        if not torch.cuda.is_available():
            return cls(None, host.memory().available, False)
        free, _ = torch.cuda.mem_get_info()
        return cls(torch.cuda.get_device_name(), free, torch.cuda.is_bf16_supported())


@dataclass(frozen=True, slots=True)
class Data:
    """What the data is: its names, samples, and their tokens before truncation."""

    names: tuple[str, ...]
    samples: int
    dropped: int
    longest: int
    percentile95: int


def suggest(names: Sequence[str], model: str, machine: Machine, progress: Progress | None = None) -> str:
    """A commented config for these data files and this model.

    Raises:
        QloraFastError: the data or the model cannot be used; the message says why.
    """
    config = of(dataset=list(names), model_name_or_path=model)
    template = tokenizer_of(config).template_name
    data = _measured(config, names, progress)
    choices = list(_choices(config, data, template, machine))
    of(**{choice.key: choice.value for choice in choices})  # what is written is a config
    return _written(data, machine, choices)


def _measured(config: Config, names: Sequence[str], progress: Progress | None) -> Data:
    with TemporaryDirectory(prefix="qlora-fast-init-") as folder:
        prepared = prepare_config(config, out=Path(folder) / "prepared", progress=progress)
        found = report.build(prepared.report, PlanOptions.of(config))
        counted = counts(prepared.report["full_lengths"])
        lengths, per_length, samples = counted.lengths, counted.samples, counted.total_samples
    running, percentile = 0, 0
    for length, count in zip(lengths, per_length, strict=True):
        running += count
        percentile = length
        if running >= 0.95 * samples:
            break
    return Data(tuple(names), samples, sum(found["rows_dropped"].values()), max(lengths, default=0), percentile)


def _choices(config: Config, data: Data, template: str, machine: Machine) -> Iterator[Choice]:
    model = config.model_name_or_path
    shape = shape_of(model)
    cutoff, why = _cutoff(data, _positions(model))
    bits, memory = _quantization(config, shape, cutoff, machine)
    yield Choice("model_name_or_path", model, "a folder, a .gguf file, or a name on the Hub")
    yield Choice("template", template, "the chat template that renders as the model's own")
    if bits is not None:
        yield Choice("quantization_bit", bits, memory)
    if machine.gpu is not None:
        kind, why = ("bf16", "this GPU computes in bf16") if machine.bf16 else ("fp16", "this GPU has no fast bf16")
        yield Choice(kind, True, f"the frozen base in 16 bits; {why}")
    yield Choice("lora_rank", 16, "width of the adapter; 8 for style, 32 and more for new knowledge")
    yield Choice("lora_alpha", 32, "scale = alpha ÷ rank = 2, the usual choice")
    yield Choice("lora_dropout", 0.05, "light regularization")
    yield Choice("dataset", list(data.names), f"{data.samples:,} samples{_dropped(data)}")
    yield Choice("cutoff_len", cutoff, why)
    held, why = _held_out(data.samples)
    yield Choice("val_size", held, why)
    batch = 16 if data.samples < 1000 else 32 if data.samples < 10_000 else 64
    yield Choice("per_device_train_batch_size", 4, "packing decides the rows: it changes neither memory nor speed")
    yield Choice("gradient_accumulation_steps", batch // 4, f"{batch} samples per optimizer step, for this much data")
    yield from _optimization(data, shape, bits, held, batch)
    if held:
        yield Choice("eval_strategy", "steps", "the evaluation loss shows when more training only overfits")
        yield Choice("eval_steps", 0.1, "ten times in the run")
        yield Choice("load_best_model_at_end", True, "the best adapter is often not the last")
    yield Choice("output_dir", f"runs/{Path(data.names[0]).name.split('.')[0]}", "adapter, checkpoints, log, plots")
    yield Choice("logging_steps", 0.01, "a hundred log lines")
    yield Choice("save_steps", 0.1, "checkpoints to resume from: resume_from_checkpoint=true")
    yield Choice("save_total_limit", 2, "older ones are removed; the best and the newest stay")


def _optimization(data: Data, shape: Shape | None, bits: int | None, held: float, batch: int) -> Iterator[Choice]:
    small = shape is not None and shape.parameters < _SMALL
    rate = 5e-4 if small else 2e-4 if bits else 1e-4
    kind = "a small model" if small else "QLoRA" if bits else "LoRA"
    yield Choice("learning_rate", rate, f"usual for {kind}; lower it if the loss jumps")
    yield Choice("lr_scheduler_type", "cosine", "fast early, fine at the end")
    yield Choice("warmup_ratio", 0.1, "a tenth of the steps to reach the full rate")
    trained = data.samples - int(held if held >= 1 else held * data.samples)
    epochs = 5 if trained < 500 else 3 if trained < 20_000 else 1
    steps = total_updates(updates_per_epoch(trained, batch), epochs, None)
    yield Choice("num_train_epochs", epochs, f"{steps:,} optimizer steps; more epochs overfit")


def _cutoff(data: Data, positions: int | None) -> tuple[int, str]:
    """At least the 95th percentile, and the longest sample where that is not much more; a multiple of 64."""
    all_fit = data.longest <= 1.5 * data.percentile95
    wanted = max(64, math.ceil((data.longest if all_fit else data.percentile95) / 64) * 64)
    what = "no sample is truncated" if all_fit else "one sample in twenty is truncated at most"
    if positions is not None and wanted > positions:
        return (
            positions,
            f"all the positions that the model has; 95 % of the samples have at most {data.percentile95:,} tokens",
        )
    return wanted, f"{what}: 95 % have at most {data.percentile95:,} tokens, the longest {data.longest:,}"


def _held_out(samples: int) -> tuple[float, str]:
    if samples < 100:
        return 0, "too few samples to hold some out"
    if samples > 10_000:
        return 1000, "samples held out for evaluation"
    return 0.1, f"a tenth is held out for evaluation: {samples // 10:,} samples"


def _quantization(config: Config, shape: Shape | None, cutoff: int, machine: Machine) -> tuple[int | None, str]:
    """4 where the base in 16 bits is estimated not to fit, and what was estimated."""
    if machine.gpu is None or shape is None:
        return None, ""

    def needed(bits: int | None) -> Memory:
        changed = of(quantization_bit=bits, lora_rank=16, model_name_or_path=config.model_name_or_path)
        return estimate(shape, Method.of(changed, max(cutoff, GPU_ROW)).recomputing())

    wide = needed(None).total
    if wide <= FIT * machine.free:
        return None, ""
    small = needed(4).total
    fits = "" if small <= FIT * machine.free else ", which may not suffice: lower cutoff_len"
    return 4, f"QLoRA: 16 bits would take about {gb(wide)} GB of the {gb(machine.free)} free, 4 bits {gb(small)}{fits}"


def _positions(model: str) -> int | None:
    """Positions that the model's config.json names, RoPE scaling included, if it has one here."""
    folder = Path(model)
    return max_positions(folder if (folder / untrusted.MODEL_CONFIG).is_file() else resolve.tokenizer_folder(model))


def _dropped(data: Data) -> str:
    if not data.dropped:
        return ""
    rows = "1 row was" if data.dropped == 1 else f"{data.dropped:,} rows were"
    return f"; {rows} dropped (`qlora-fast prep` says why)"


_PARTS = {
    "model_name_or_path": "model", "lora_rank": "LoRA", "dataset": "data", "per_device_train_batch_size": "batch",
    "learning_rate": "optimization", "eval_strategy": "evaluation", "output_dir": "output",
}  # fmt: skip
"""The first key of each part of the file."""


def _written(data: Data, machine: Machine, choices: Sequence[Choice]) -> str:
    name = Path(data.names[0]).name.split(".")[0]
    where = machine.gpu or "the CPU"
    lines = [
        f"# Made by `qlora-fast init {shlex.join(data.names)}` for {where} ({gb(machine.free)} GB of memory free).",
        f"#     qlora-fast plan  {shlex.quote(f'{name}.yaml')}",
        f"#     qlora-fast train {shlex.quote(f'{name}.yaml')}",
    ]
    for choice in choices:
        if choice.key in _PARTS:
            lines += ["", f"### {_PARTS[choice.key]}"]
        said = f"{choice.key}: {_yaml(choice.value)}"
        lines.append(f"{said:<40}  # {choice.reason}")
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    """A value as YAML on one line; text in quotes where YAML would read it otherwise."""
    if isinstance(value, list):
        return f"[{', '.join(_yaml(item) for item in value)}]" if len(value) > 1 else _yaml(value[0])
    if isinstance(value, str):
        plain = all(c.isalnum() or c in "._-/\\" for c in value) and value.lower() not in ("", "-", "null")
        return value if plain else "'" + value.replace("'", "''") + "'"
    return text(value)
