"""``torch_compile``: the decoder layers of a run compiled, if it is asked for, possible, right and, with ``auto``, faster.

What rules it out is found in three steps: without trying (:func:`impossible`, and :mod:`~qlora_fast.train.compile_plan` for
``auto``), then by the compiler, then by comparing the longest row of the run, eager and compiled: its loss, its gradient and its time.
All processes of a run compile, or none does. Compiled code rounds otherwise, so a checkpoint stores what was decided, and a resumed
run with ``auto`` takes it over.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qlora_fast.errors import ConfigError, first_line
from qlora_fast.model.compiled import CompiledLayers, layers_to_compile, missing
from qlora_fast.model.patch import report_of
from qlora_fast.train.compile_plan import against, rows_of
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.setup import Setup

log = logging.getLogger(__name__)

_LOSS, _GRADIENT_32, _GRADIENT_16 = 1e-2, 1e-4, 1e-1
"""How far the loss and the gradient of the compiled row may be from the eager ones: |difference| ÷ |eager|. In 16 bits both
round, each in its way: 30 layers in bf16 differ by 3.5e-2, and what is wrong by more than 1."""
_LOSS_DROPPED = 0.1
"""The same of the loss with dropout, which draws other numbers."""
_PAYS = 0.97
"""``auto`` keeps compiled layers that take at most this share of the eager time."""
_HINT = "set `torch_compile: auto`, which compiles where it can and pays"


@dataclass(frozen=True, slots=True)
class Trial:
    """The longest row of the run by eager and by compiled layers.

    Attributes:
        compiling_s: what the first compiled row took longer. eager_s, compiled_s: of a later one.
        loss, gradient: relative differences; the gradient's is None where dropout draws other numbers.
    """

    compiling_s: float
    eager_s: float
    compiled_s: float
    loss: float
    gradient: float | None

    def wrong(self, dtype: torch.dtype) -> str:
        """What is not as it is eagerly; empty if nothing is."""
        bound = _GRADIENT_32 if dtype == torch.float32 else _GRADIENT_16
        most = _LOSS_DROPPED if self.gradient is None else _LOSS
        if not self.loss <= most:
            return f"the compiled loss differs from the eager one by {self.loss:.1e} (bound {most:.0e})"
        if self.gradient is not None and not self.gradient <= bound:
            return f"the compiled gradient differs from the eager one by {self.gradient:.1e} (bound {bound:.0e})"
        return ""

    def slow(self) -> str:
        """Whether it is no faster; empty if it is."""
        if self.compiled_s <= _PAYS * self.eager_s:
            return ""
        return f"a row takes {1000 * self.compiled_s:.1f} ms compiled, {1000 * self.eager_s:.1f} ms eagerly"


@dataclass(slots=True)
class Compilation:
    """What came of ``torch_compile``.

    Attributes:
        layers: what is compiled; None if nothing is. reason: why not.
    """

    layers: CompiledLayers | None = None
    reason: str = ""
    trial: Trial | None = field(default=None, repr=False)

    @property
    def used(self) -> bool:
        """Whether layers run compiled code."""
        return self.layers is not None and self.layers.on

    def described(self) -> dict[str, object]:
        """For run.json."""
        if self.layers is None or not self.used:
            return {"used": False, "reason": self.reason or (self.layers.problem if self.layers else "")}
        found: dict[str, object] = {"used": True, "layers": len(self.layers.layers), "one_graph": self.layers.whole}
        if self.trial is not None:
            found["seconds_to_compile"] = round(self.trial.compiling_s, 1)
            found["longest_row_ms"] = {
                "eager": round(1000 * self.trial.eager_s, 1), "compiled": round(1000 * self.trial.compiled_s, 1)
            }  # fmt: skip
        return found


def compile_layers(setup: Setup, ranks: Ranks, kept: bool | None = None) -> Compilation:
    """Compile the layers of a run, or say why not. Each rank calls it.

    Args:
        kept: what the run that is resumed did; only ``auto`` follows it.

    Raises:
        ConfigError: ``torch_compile: true`` cannot be done here.
    """
    asked = setup.config.torch_compile == "true"
    if setup.config.torch_compile == "auto" and kept is False:
        return Compilation(reason="as in the checkpoint")
    if setup.config.torch_compile == "false":
        return Compilation(reason="torch_compile: false")
    must = asked or kept is True
    reason = impossible(setup) or (None if must else _not_worth_it(setup))
    if ranks.any(reason is not None):
        return _none(reason or "another process cannot compile", asked, kept)
    log.info(
        "torch_compile: the decoder layers are compiled, which takes about half a minute, or two on a slow processor"
    )
    compiled = CompiledLayers(layers_to_compile(setup.model), whole=_whole(setup))
    trial, problem = _tried(setup, compiled)
    if trial is not None:
        problem = trial.wrong(setup.forward.dtype) or ("" if must else trial.slow())
    if ranks.any(bool(problem)):
        compiled.on = False
        return _none(problem or "another process found it wrong or not faster", asked, kept)
    found = Compilation(compiled, trial=trial)
    log.info("torch_compile: %s", found.described())
    return found


def impossible(setup: Setup) -> str | None:
    """Why layers cannot be compiled, for any caller; or None."""
    rules = {
        "the base comes to the device layer by layer (shard_base, offload_base)": setup.forward.stream is not None,
        "8-bit weights are multiplied by a library that looks at the numbers": setup.config.quantization_bit == 8,
        "the model has no second decoder layer where layers are looked for": not layers_to_compile(setup.model),
    }
    return next((reason for reason, holds in rules.items() if holds), None) or missing(setup.machine.device)


def _not_worth_it(setup: Setup) -> str | None:
    data, timetable = setup.data, setup.timetable
    return against(
        setup.config,
        gpu=setup.machine.device.type == "cuda",
        kernels=report_of(setup.model).whole_layers,
        layers=setup.forward.layers,
        rows=rows_of(data.plan_of_epoch(0), timetable.updates, data.plans.world_size),
    )


def _none(reason: str, asked: bool, kept: bool | None) -> Compilation:
    if asked:
        raise ConfigError(f"`torch_compile: true` cannot be done: {reason}", hint=_HINT)
    if kept:
        log.warning("layers are not compiled as at the checkpoint, so the run rounds differently: %s", reason)
    else:
        log.info("torch_compile: layers are not compiled: %s", reason)
    return Compilation(reason=reason)


def _whole(setup: Setup) -> bool:
    """Whether nothing inside of a layer is left to Python."""
    return setup.longest.cu_seqlens is None or setup.forward.attends_whole_rows()


def _tried(setup: Setup, compiled: CompiledLayers) -> tuple[Trial | None, str]:
    # A function of its own: an error that is still held keeps everything that its frames do.
    try:
        trial = _trial(setup, compiled)
    except Exception as error:  # whatever stands in the way of a compiler, or of memory
        setup.adapter.discard()
        return None, first_line(error)
    return (None, compiled.problem) if compiled.problem else (trial, "")


def _trial(setup: Setup, compiled: CompiledLayers) -> Trial:
    compiled.on = False
    loss, gradient, first_s = _run(setup)
    eager_s = min(first_s, _run(setup)[2])
    compiled.on = True
    own_loss, own_gradient, first_s = _run(setup)
    compiled_s = min(_run(setup)[2] for _ in range(2))
    drops = setup.config.lora_dropout > 0 or setup.forward.attention_dropout > 0
    return Trial(
        compiling_s=max(0.0, first_s - compiled_s),
        eager_s=eager_s,
        compiled_s=compiled_s,
        loss=abs(own_loss - loss) / max(abs(loss), 1e-20),
        gradient=None if drops else float((own_gradient - gradient).norm() / gradient.norm().clamp_min(1e-20)),
    )


def _run(setup: Setup) -> tuple[float, Tensor, float]:
    """Loss, gradient and seconds of the longest row; nothing of it stays, the random state neither."""
    device = setup.machine.device
    began = time.perf_counter()
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        loss = setup.forward.loss_sum(setup.longest)
        loss.backward()  # type: ignore[no-untyped-call]
    setup.adapter.collect()
    found = float(loss.detach()), setup.adapter.gradient.clone()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - began
    setup.adapter.discard()
    return *found, seconds
