"""The frozen base of a run: whole on the device, shared out over the ranks, or in main memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from torch import nn

from qlora_fast.config import Config
from qlora_fast.errors import ConfigError
from qlora_fast.model.load import Quantization, load_base
from qlora_fast.model.memory_estimate import CONTEXT
from qlora_fast.model.shapes import known_shape
from qlora_fast.model.sharded_memory import Sharing, planned, sharing
from qlora_fast.model.streamed.gather import Gathered
from qlora_fast.model.streamed.load import load_streamed
from qlora_fast.model.streamed.pinned import Pinned
from qlora_fast.train import memory_usage
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.health import check_base

if TYPE_CHECKING:
    from qlora_fast.train.setup import Machine

log = logging.getLogger(__name__)

_EVERY_S = 5.0


def base_of(
    config: Config, path: str, machine: Machine, ranks: Ranks, whole: Collection[str] | None = None
) -> nn.Module:
    """Load the base that a config names, as it says.

    Args:
        whole: modules that the adapter has whole, by the last part of their names; default those that the config trains.

    Raises:
        ArtifactError: the model cannot be loaded, or has weights that are not finite.
        ConfigError: it cannot be packed, or not be shared out.
    """
    quantization = Quantization.of(config)
    away = _source(config, machine, ranks)
    if away is None:
        return load_base(
            path, dtype=machine.dtype, device=machine.device, packing=config.packing, quantization=quantization
        )
    if config.use_dora or config.pissa_init:
        raise ConfigError(
            f"`{'use_dora' if config.use_dora else 'pissa_init'}` starts from the base's whole weights, which no process has "
            f"with `shard_base: {config.shard_base}`",
            hint="set shard_base: off, or leave it out",
        )
    source, parts = away
    model = load_streamed(
        path,
        source,
        dtype=machine.dtype,
        device=machine.device,
        packing=config.packing,
        quantization=quantization,
        multiple=parts,
        resident=config.additional_target if whole is None else whole,
        on_part=lambda part, prefix: check_base(part, config.model_name_or_path, prefix),
        progress=_reported(time.monotonic()),
    )
    if isinstance(source, Pinned):
        log.info("offload_base: %.2f GB of the base are in main memory", source.host_bytes / 1e9)
        if machine.device.type == "cpu":
            log.warning("offload_base: a CPU has the base in main memory anyway; here it only costs time")
    else:
        log.info("the base is shared out over %d processes: each keeps %.2f GB of it", parts, source.device_bytes / 1e9)
    return model


def _source(config: Config, machine: Machine, ranks: Ranks) -> tuple[Gathered | Pinned, int] | None:
    """Where the base is when it is not on the device, and in how many parts a layer is cut there; None if it is on the device."""
    if config.offload_base:
        return Pinned(), 1
    kind = sharding(config, machine, ranks)
    if kind == "off":
        return None
    share = ranks.share(kind)
    return Gathered(share), share.size


def sharding(config: Config, machine: Machine, ranks: Ranks) -> Sharing:
    """How the base of this run is shared out, decided for all ranks alike; ``auto`` is resolved."""
    kind = config.shard_base
    if ranks.world == 1:
        if kind in ("node", "world"):
            log.info("shard_base: one process keeps the whole base")
        return "off"
    if kind != "auto":
        return kind
    return _automatic(config, machine, ranks)


def _automatic(config: Config, machine: Machine, ranks: Ranks) -> Sharing:
    """The least sharing with which the run fits on each rank, by the estimate."""
    shape = known_shape(config.model_name_or_path)
    if shape is None:
        log.info("shard_base: off; the memory of this kind of model is not estimated")
        return "off"
    method = planned(config, config.row_budget, machine.dtype.itemsize)
    # The smallest machine and the fullest device decide for all.
    node, free = -ranks.most(-ranks.machine_size), -ranks.most(-memory_usage.available(machine.device))
    chosen, verdict = sharing(shape, method, node, ranks.world, free + CONTEXT)
    log.info(
        "shard_base: %s; %.1f GB are needed on each device, %.1f GB are free",
        chosen, (verdict.memory.total - CONTEXT) / 1e9, free / 1e9,
    )  # fmt: skip
    return chosen


def _reported(started: float) -> Callable[[int, int], None]:
    """Log how far the loading is, every few seconds."""
    last = started

    def report(done: int, parts: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _EVERY_S or (done == parts and now - started >= _EVERY_S):
            last = now
            log.info("loading the base: %d of %d parts, %.0f s", done, parts, now - started)

    return report
