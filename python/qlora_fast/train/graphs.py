"""Forward and backward of a rung (:mod:`qlora_fast.data.rung`), captured once as a CUDA graph and replayed for each row of it.

A row of a small model is thousands of launches, and Python takes longer to make them than the GPU to run them; a replay is one.
The gradient is added into the flat vector as otherwise, and clipping, the optimizer and sums over ranks stay outside::

    a rung's 1st row    eagerly, in the static buffers: compiles kernels and fills what libraries keep
              2nd       captured, then replayed and run eagerly, and the two gradients and times compared
              3rd …     copied into the buffers, replayed

Whatever rules it out is found at the start (:func:`reason_against`) or at the capture, named once in the log and in
run.json, and rows are then run eagerly, which gives the same gradient.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from qlora_fast.config import Config
from qlora_fast.data.batch import Row
from qlora_fast.data.rung import Rung, capacity, fitted, ladder, row_sizes
from qlora_fast.errors import first_line, is_out_of_memory
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.train.forward import Forward, RowTensors
from qlora_fast.train.memory_probe import EPOCHS
from qlora_fast.train.row_pass import Eager, RowPass
from qlora_fast.train.setup import Setup

log = logging.getLogger(__name__)

Replay = Callable[[], None]
_BOUND_32, _BOUND_16 = 1e-4, 2e-2
"""How far the gradient of a replay may be from the eager one: |difference| ÷ |eager|, by the model's dtype."""


class Recorder(Protocol):
    """What captures work and replays it."""

    def capture(self, work: Callable[[], None]) -> Replay:
        """Record what ``work`` launches, without running it.

        Raises:
            RuntimeError: it does something that cannot be recorded.
        """

    def milliseconds(self, work: Callable[[], object]) -> float:
        """Run it, and how long the device took; waits."""

    def forget(self) -> None:
        """Give back the memory of what was captured, which is replayed no more."""


class CudaRecorder:
    """torch's CUDA graphs; all share one pool of memory, for only one is replayed at a time and nothing of it stays there."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, work: Callable[[], None]) -> Replay:
        graph = torch.cuda.CUDAGraph()
        # Threads of NCCL and of pinned memory may ask for events meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        replay: Replay = graph.replay
        return replay

    def milliseconds(self, work: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end))

    def forget(self) -> None:
        torch.cuda.empty_cache()


@dataclass(slots=True)
class _Step:
    """A rung's buffers, which a graph reads and writes at fixed addresses."""

    rung: Rung
    row: RowTensors
    divisor: Tensor
    loss: Tensor
    warm: bool = False
    replay: Replay | None = None

    def fill(self, row: Row, divisor: float | Tensor, put: Callable[[Tensor, NDArray[Any]], None]) -> None:
        """Copy a row in; a copy is behind everything that still reads the buffers."""
        full = fitted(row, self.rung)
        for name in ("input_ids", "position_ids", "targets", "target_index", "cu_seqlens"):
            put(getattr(self.row, name), getattr(full, name))
        if self.row.borders is not None and full.cu_seqlens is not None:
            self.row.borders.move(full.cu_seqlens)
        if isinstance(divisor, Tensor):
            self.divisor.copy_(divisor)
        else:
            self.divisor.fill_(divisor)


@dataclass(slots=True)
class Graphs:
    """Runs rows by graphs where it can, and eagerly elsewhere.

    Args:
        ladder: the rungs of the run, by tokens.
    """

    forward: Forward
    adapter: Adapter
    ladder: Mapping[int, Rung]
    recorder: Recorder
    _steps: dict[Rung, _Step] = field(default_factory=dict)
    _off: str = ""

    def __call__(self, row: Row, divisor: float | Tensor) -> Tensor:
        eager = Eager(self.forward, self.adapter)
        rung = self.ladder.get(capacity(row.input_ids.size))
        if self._off or rung is None or not rung.holds(row):
            return eager(row, divisor)
        step = self._steps.get(rung)
        if step is None:
            step = self._steps[rung] = self._prepared(row, rung)
        step.fill(row, divisor, self.forward.put)
        if step.replay is not None:
            step.replay()
        elif step.warm:
            self._record(step, row.input_ids.size)
        else:
            self._first(step)
        return step.loss

    def described(self) -> dict[str, object]:
        """For run.json."""
        if self._off:
            return {"used": False, "reason": self._off}
        captured = sorted(step.rung.tokens for step in self._steps.values() if step.replay is not None)
        return {"used": True, "rungs": sorted(self.ladder), "captured": captured}

    def _prepared(self, row: Row, rung: Rung) -> _Step:
        scalar = torch.zeros((), device=self.forward.device)
        return _Step(rung, self.forward.on_device(fitted(row, rung)), scalar, torch.zeros_like(scalar))

    def _run(self, step: _Step) -> None:
        step.loss.copy_(Eager(self.forward, self.adapter).of(step.row, step.divisor))

    def _first(self, step: _Step) -> None:
        """A rung's first row. If it does not fit beside what is captured, the graphs are given up, not the run."""
        before = self.adapter.gradient.clone()
        if not self._fits(step):
            self._stop(f"a row of {step.rung.tokens:,} tokens does not fit into memory beside the graphs")
            self._reset_to(before)
            self._run(step)
        step.warm = True

    def _fits(self, step: _Step) -> bool:
        # A function of its own: an error that is still held keeps everything that its frames do.
        try:
            self._run(step)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or not any(other.replay for other in self._steps.values()):
                raise
            return False
        return True

    def _record(self, step: _Step, real_tokens: int) -> None:
        """Capture a rung, and run its row; the gradient that stays is the eager one."""
        before = self.adapter.gradient.clone()
        problem = self._captured(step, real_tokens, before)
        if problem is not None:
            step.replay = None
            self._stop(problem)
            self._reset_to(before)
            self._run(step)

    def _captured(self, step: _Step, real_tokens: int, before: Tensor) -> str | None:
        """Capture, replay, and run eagerly, with the memory of both; what rules replaying out, or None."""
        size = f"a row of {step.rung.tokens:,} tokens"
        try:
            step.replay = self.recorder.capture(lambda: self._run(step))
            step.replay()
            replayed = self.adapter.gradient - before
            # The first replay has also brought the graph to the device.
            replay_ms = self.recorder.milliseconds(step.replay)
            self._reset_to(before)
            eager_ms = self.recorder.milliseconds(lambda: self._run(step))
        except RuntimeError as error:  # an out-of-memory error is one
            return f"{size} cannot be captured ({first_line(error)})"
        eager = self.adapter.gradient - before
        if bool((~eager.isfinite()).any()):
            step.replay = None  # an overflow of fp16 shows nothing: the rung's next row is captured instead
            return None
        off = float((replayed - eager).norm() / eager.norm().clamp_min(1e-20))
        bound = _BOUND_32 if self.forward.dtype == torch.float32 else _BOUND_16
        without_padding = eager_ms * real_tokens / step.rung.tokens
        if not off <= bound:
            return f"{size}: a replayed gradient differs from the eager one by {off:.1e} (bound {bound:.0e})"
        if replay_ms > without_padding > 0:
            return (
                f"{size}: a replay takes {replay_ms:.1f} ms, without padding and eagerly it is {without_padding:.1f} ms"
            )
        log.debug("%s is captured: %.1f ms, eagerly %.1f ms", size, replay_ms, eager_ms)
        return None

    def _reset_to(self, gradient: Tensor) -> None:
        self.adapter.discard()
        self.adapter.gradient.copy_(gradient)

    def _stop(self, reason: str) -> None:
        self._off = reason
        self._steps.clear()
        self.recorder.forget()
        log.info("cuda_graphs: off from here on; %s", reason)


def chosen_pass(setup: Setup, *, recomputed: bool) -> RowPass:
    """How the rows of a run are run on this machine."""
    reason = reason_against(setup.config, setup.forward, recomputed=recomputed)
    if reason is not None:
        return Eager(setup.forward, setup.adapter, reason)
    data = setup.data
    epochs = range(min(setup.timetable.epochs, EPOCHS))
    sizes = (size for e in epochs for size in row_sizes(data.plan_of_epoch(e), data.lengths, data.supervised))
    return Graphs(setup.forward, setup.adapter, ladder(sizes, int(data.lengths.max())), CudaRecorder())


def reason_against(config: Config, forward: Forward, *, recomputed: bool) -> str | None:
    """Why the rows of a run cannot be replayed, or None."""
    if config.cuda_graphs == "off":
        return "cuda_graphs: off"
    if forward.device.type != "cuda":
        return f"the device is a {forward.device.type.upper()}"
    against = {
        "rows are padded to their own lengths": not config.packed,
        "random numbers are drawn in each row (lora_dropout, neftune_noise_alpha)": bool(
            config.lora_dropout or config.neftune_noise_alpha
        ),
        "activations are recomputed": recomputed,
        "8-bit weights are multiplied by a library that looks at the numbers": config.quantization_bit == 8,
        "the base comes to the device layer by layer": forward.stream is not None,
        "samples are attended one by one": not forward.attends_whole_rows(),
    }
    return next((reason for reason, holds in against.items() if holds), None)
