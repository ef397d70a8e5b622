"""What ``qlora-fast plan`` shows: samples per update, updates, rows, tokens, learning rate and memory. No torch, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qlora_fast.config import Config
from qlora_fast.data.prepare import Progress as PrepareProgress
from qlora_fast.errors import ConfigError
from qlora_fast.model import host
from qlora_fast.model.memory_estimate import Shape
from qlora_fast.train import row_budget
from qlora_fast.train.advice import advice
from qlora_fast.train.row_budget import RowBudget
from qlora_fast.train.schedule import Timetable, updates_per_epoch

if TYPE_CHECKING:
    from qlora_fast.data.length_stats import Fill
    from qlora_fast.data.plan import EpochPlan
    from qlora_fast.data.selection import RunData

Report = dict[str, Any]
_RATES = 1000
"""At most about so many learning rates are listed."""


def from_data(config: Config, progress: PrepareProgress | None = None) -> Report:
    """Plan a run over its data, which is prepared, or found prepared.

    Raises:
        QloraFastError: whatever would stop the run while it prepares its data.
    """
    from qlora_fast.data import selection
    from qlora_fast.data.findings import as_json, line
    from qlora_fast.data.plan import longest_row_tokens
    from qlora_fast.data.tokenizer import tokenizer_of

    data = selection.load(config, tokenizer_of(config), progress)
    budget = row_budget_of(config, data)
    data = data.in_rows_of(budget.tokens)
    first = data.plan_of_epoch(0)
    tokens = first.tokens
    return {
        **_arithmetic(config, len(data.lengths), len(data.eval_ids), len(first.supervised), data.seen),
        "preparation": {
            "line": line(data.prepared.report, data.prepared.findings),
            **as_json(data.prepared.report, data.prepared.findings),
        },
        "tokens_per_update": {"min": int(tokens.min()), "mean": float(tokens.mean()), "max": int(tokens.max())},
        "supervised_tokens": int(first.supervised.sum()),
        "max_tokens_per_row": asdict(budget),
        "torch_compile": _compiling(config, first),
        "padding": [asdict(way) for way in _ways(config, data)],
        "plan_digest": first.digest,
        "datasets": [asdict(share) for share in data.shares],
        **_memory(config, longest_row_tokens(first, data.lengths, data.plans.packed)),
    }


def from_rows(config: Config, rows: int) -> Report:
    """Plan a run from a number of rows alone, without the data.

    Raises:
        ConfigError: with ``packing: dense`` the lengths decide.
    """
    from qlora_fast.data.plan import PlanOptions, split

    if config.packing == "dense":
        raise ConfigError("`packing: dense` makes as many updates as the lengths allow", hint="leave --rows out")
    train_ids, eval_ids = split(rows, 0.0 if config.eval_dataset else config.val_size, config.seed)
    per_epoch = updates_per_epoch(len(train_ids), PlanOptions.of(config).samples_per_update)
    return {**_arithmetic(config, len(train_ids), len(eval_ids), per_epoch), **_memory(config, None)}


def _compiling(config: Config, plan: EpochPlan) -> dict[str, Any]:
    """Whether ``train`` compiles the layers on this machine, as far as the model's config.json tells; ``train`` tries it."""
    from qlora_fast.model.architectures import ARCHITECTURES
    from qlora_fast.model.shapes import config_of, known_shape
    from qlora_fast.train.compile_plan import against, rows_of

    if config.torch_compile != "auto":
        return {"used": config.torch_compile == "true", "why": "as set"}
    found, shape = config_of(config.model_name_or_path), known_shape(config.model_name_or_path)
    own = found or {}
    layers = (own.get("text_config") or own).get("num_hidden_layers") or (shape.layers if shape is not None else 1)
    family = ARCHITECTURES.get(str(found.get("model_type"))) if found is not None else None
    updates = Timetable.of(config, len(plan.supervised)).updates
    why = against(
        config,
        gpu=host.gpu_free() is not None,
        # The models that are known by name alone are of families that our kernels compute.
        kernels=family.whole_layers if family is not None else found is None and shape is not None,
        layers=layers,
        rows=rows_of(plan, updates, config.world_size),
    )
    return {"used": why is None, "why": why or "the run is long enough to pay for it, if a row is faster"}


def row_budget_of(config: Config, data: RunData) -> RowBudget:
    """What ``max_tokens_per_row`` will come to on this machine, as far as the model's shape tells; ``train`` measures."""
    from qlora_fast.data.plan import longest_row_tokens

    if not row_budget.is_open(config):
        return row_budget.named(config)
    whole_steps = data.in_whole_updates()
    whole = longest_row_tokens(whole_steps.plan_of_epoch(0), data.lengths, packed=True)
    longest, free = int(data.lengths.max()), host.gpu_free()
    fits = None if free is None else _fitting(config, whole, longest, free)
    return row_budget.chosen(whole, longest, fits, gpu=free is not None)


def _fitting(config: Config, whole: int, longest: int, free: int) -> int | None:
    """Tokens of the longest row that a GPU will hold; None where the model's shape is not known."""
    from qlora_fast.model.memory_estimate import Method, estimate
    from qlora_fast.model.shapes import known_shape

    shape = known_shape(config.model_name_or_path)
    if shape is None:
        return None
    method = Method.of(config, whole)
    try:
        fits = row_budget.largest(whole, lambda n: estimate(shape, method.over(n)).total, free)
        if fits < row_budget.floor(whole, longest, gpu=True) and config.gradient_checkpointing == "auto":
            fits = row_budget.largest(whole, lambda n: estimate(shape, method.recomputing().over(n)).total, free)
    except ConfigError:
        return None
    return fits


def _ways(config: Config, data: RunData) -> list[Fill]:
    """Each way to batch this data: the run's own in the rows that it has, the others in those of the config."""
    from qlora_fast.data.length_stats import padding
    from qlora_fast.data.plan import PlanOptions

    if not row_budget.is_open(config):
        return padding(data.lengths, data.supervised, data.plans)
    own = {way.packing: way for way in padding(data.lengths, data.supervised, data.plans)}
    others = padding(data.lengths, data.supervised, PlanOptions.of(config))
    return [own[way.packing] if way.packing == config.packing else way for way in others]


def _arithmetic(config: Config, samples: int, held_out: int, per_epoch: int, seen: Sequence[str] = ()) -> Report:
    from qlora_fast.data.plan import PlanOptions
    from qlora_fast.model.shapes import known_shape

    timetable = Timetable.of(config, per_epoch)
    rate, updates = timetable.rate, timetable.updates
    steps = range(timetable.log_every, updates + 1, max(timetable.log_every, updates // _RATES))
    shown = sorted(k for k in {1, *steps, min(rate.warmup + 1, updates), updates} if 1 <= k <= updates)
    return {
        "rows": samples,
        "eval_rows": held_out,
        "packing": config.packing,
        "world_size": config.world_size,
        "samples_per_update": PlanOptions.of(config).samples_per_update,
        "updates_per_epoch": per_epoch,
        "epochs": config.num_train_epochs,
        "updates": updates,
        "warmup_updates": rate.warmup,
        "lr": {str(k): rate.lr(k) for k in shown},
        "advice": advice(config, timetable, held_out, known_shape(config.model_name_or_path), seen),
    }


def _memory(config: Config, tokens: int | None) -> dict[str, Any]:
    """``memory``: bytes by part on each GPU with a complete base; ``fetched``: what another place of the base comes to.

    Both are None where the model's shape is not known without loading it.
    """
    from qlora_fast.model.memory_estimate import Method, estimate
    from qlora_fast.model.shapes import known_shape

    nothing = {"memory": None, "fetched": None}
    shape = known_shape(config.model_name_or_path)
    if shape is None:
        return nothing
    longest = tokens or config.row_budget
    try:
        memory = estimate(shape, Method.of(config, longest))
    except ConfigError:
        return nothing
    complete = {"longest_row": longest, **asdict(memory), "weights": memory.weights, "total": memory.total}
    return {"memory": complete, "fetched": _fetched(config, shape, longest)}


def _fetched(config: Config, shape: Shape, longest: int) -> dict[str, Any] | None:
    """Memory, bytes per row and shortest rows with a base that the GPUs share, or that is in main memory; else None."""
    from qlora_fast.model.gather import LINKS, PCIE, gather
    from qlora_fast.model.sharded_memory import on_each, planned

    if config.world_size == 1 and not config.offload_base:
        return None
    method, devices = planned(config, longest), 1 if config.offload_base else config.world_size
    links = PCIE if config.offload_base else tuple(LINKS)
    fetches = gather(shape, method, devices)
    return {
        "devices": devices,
        "offload": config.offload_base,
        "total": on_each(shape, method, devices, offload=config.offload_base).total,
        "bytes_per_row": fetches.bytes_per_row,
        "tokens_to_hide": {link: fetches.tokens_to_hide(link) for link in links},
        "slowdown": {link: round(fetches.slowdown(longest, link), 3) for link in links},
        "seconds_per_row": {link: round(fetches.seconds_per_row(link), 4) for link in links},
    }
