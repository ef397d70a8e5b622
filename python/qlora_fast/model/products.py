"""By which library a CPU multiplies with the frozen weights: measured at the start, on a layer of the model.

torch multiplies fp32 matrices by the BLAS that it was built with, which is MKL on x86; MKL has no kernels for the 512-bit
vectors of AMD's processors, and is half as fast there as oneDNN, which is in every torch as well. In bf16, where the processor
multiplies pairs of 16-bit numbers (AVX512-BF16, AMX), oneDNN is twice as fast again. So each way is tried, and taken when it
pays by a margin that no noise makes up; what a processor is called decides nothing.

========  ======================================================  ==========================================
way       x·Wᵀ and g·W                                            differs from fp64 by (norm of the difference)
========  ======================================================  ==========================================
torch     torch's BLAS, fp32                                      about 2e-7
onednn    oneDNN, fp32                                            about 4e-7
bf16      x, g, W and the result rounded to bf16, sums in fp32    about 4e-3
========  ======================================================  ==========================================

bf16 is only taken where it is asked for (``dtype: auto``), and only for passes with a gradient: scores and the self-check are
always fp32.

Legend: T tokens, D and N widths in and out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

log = logging.getLogger(__name__)

Way = Literal["torch", "onednn", "bf16"]
Ways = tuple[Way, Way]
"""How scores are computed, and passes with a gradient."""
BOUNDS: dict[Way, float] = {"onednn": 1e-5, "bf16": 1e-2}
"""How far a way may be from torch's fp32 product: ‖difference‖ ÷ ‖product‖. A library beyond it is not taken."""
_PAYS: dict[Way, float] = {"onednn": 0.8, "bf16": 0.75}
"""A way is taken when its time is at most this share of the one that it replaces."""
_NARROW = 256
"""Below this width products are not what a step takes its time for, and nothing is tried."""
_TOKENS, _WIDEST = 128, 2048
"""What is tried: so many tokens, and no more of a layer than this, so that the largest model too is tried in half a second."""
_ROUNDS, _SECONDS = 7, 0.6
"""Turns of each way, and seconds after which no further turn begins."""


def forward(way: Way, x_TD: Tensor, weight_ND: Tensor, bias: Tensor | None) -> Tensor:  # noqa: N803
    """x·Wᵀ + bias, (T, N) in the dtype of x. ``weight_ND`` is in bf16 for that way, a bias never is."""
    if way == "onednn":
        return _onednn(x_TD, weight_ND, bias)
    if way == "bf16":
        y_TN = linear(x_TD.to(torch.bfloat16), weight_ND).to(x_TD.dtype)  # noqa: N806
        return y_TN if bias is None else y_TN.add_(bias)
    return linear(x_TD, weight_ND, bias)


def through(way: Way, g_TN: Tensor, weight_ND: Tensor, out_TD: Tensor | None = None) -> Tensor:  # noqa: N803
    """g·W, (T, D) in the dtype of g: what a gradient becomes behind the layer. It is written to ``out_TD`` where one is given."""
    if way == "torch":
        return torch.mm(g_TN, weight_ND, out=out_TD) if out_TD is not None else g_TN @ weight_ND
    product_TD = _through(way, g_TN, weight_ND)  # noqa: N806
    return product_TD if out_TD is None else out_TD.copy_(product_TD)


def _through(way: Way, g_TN: Tensor, weight_ND: Tensor) -> Tensor:  # noqa: N803
    if way == "onednn":
        return _onednn(g_TN, weight_ND.t(), None)
    return (g_TN.to(torch.bfloat16) @ weight_ND).to(g_TN.dtype)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


@dataclass(frozen=True, slots=True)
class Products:
    """The ways that a model multiplies by.

    Attributes:
        exact: for scores, and for everything that is to be fp32. training: for passes with a gradient.
        why: what decided it, for people.
        run_here: every way that was tried and is exact enough.
    """

    exact: Way
    training: Way
    why: str
    run_here: tuple[Way, ...] = ("torch",)

    @property
    def ways(self) -> Ways:
        """Both, without the reason."""
        return self.exact, self.training

    def described(self) -> dict[str, str]:
        """For a JSON file."""
        return {"scores": self.exact, "training": self.training, "why": self.why}

    def __str__(self) -> str:
        names = self.training if self.training == self.exact else f"{self.training}, scores by {self.exact}"
        return f"{names} ({self.why})"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run asks of its products.

    Attributes:
        rounding: whether a CPU may multiply with frozen weights in bf16 while training.
        kept: how the run that is resumed multiplied.
        processes: of the run on this machine: they share its memory.
        agree: which ways all processes of the run take, of what this one has found. Each of them calls it once.
    """

    rounding: bool = False
    kept: Ways | None = None
    processes: int = 1
    agree: Callable[[Products], Ways] | None = None


EXACT = Wanted()
TORCH = Products("torch", "torch", "nothing else was tried")

_CHOSEN: dict[tuple[int, int, bool], Products] = {}


def choose(
    shapes: Sequence[tuple[int, int]],
    dtype: torch.dtype,
    device: torch.device,
    *,
    rounding: bool,
    kept: Ways | None = None,
) -> Products:
    """The fastest ways for frozen layers of these shapes; measured once a process.

    Args:
        shapes: (N, D) of each layer. dtype: of the activations.
        rounding: whether bf16 may be taken.
        kept: the ways of the checkpoint that a run resumes from. They are taken where they run, so that it goes on to the
            same bits; the probe could decide otherwise near its limits, or on another machine.
    """
    if device.type != "cpu":
        return Products("torch", "torch", f"the device is a {device.type.upper()}")
    if dtype != torch.float32:
        return Products("torch", "torch", f"{str(dtype).removeprefix('torch.')} goes to oneDNN by itself")
    largest = max(shapes, key=lambda shape: shape[0] * shape[1], default=(0, 0))
    if min(largest) < _NARROW:
        return Products("torch", "torch", f"no frozen layer is {_NARROW} wide or wider")
    tried = (min(largest[0], _WIDEST), min(largest[1], _WIDEST))
    key = (*tried, rounding)
    if key not in _CHOSEN:
        ways: tuple[Way, ...] = ("torch", "onednn", "bf16") if rounding else ("torch", "onednn")
        _CHOSEN[key] = judged(measured(tried, ways))
        log.debug("products with frozen weights: %s", _CHOSEN[key])
    found = _CHOSEN[key]
    if kept is not None and kept != found.ways and set(kept) <= set(found.run_here):
        return replace(found, exact=kept[0], training=kept[1], why=f"as in the checkpoint; here {found.why}")
    return found


def judged(seconds: dict[Way, float]) -> Products:
    """What to take, by the seconds of each way that runs and is exact enough."""
    exact: Way = "torch"
    if seconds.get("onednn", float("inf")) <= _PAYS["onednn"] * seconds["torch"]:
        exact = "onednn"
    training = exact
    if seconds.get("bf16", float("inf")) <= _PAYS["bf16"] * seconds[exact]:
        training = "bf16"
    why = ", ".join(f"{way} {taken * 1e3:.2g} ms" for way, taken in seconds.items())
    return Products(exact, training, why, tuple(seconds))


def measured(shape: tuple[int, int], ways: Sequence[Way]) -> dict[Way, float]:
    """Seconds of x·Wᵀ and g·W by each way that runs here within its bound; ``torch`` is always among them.

    The shortest of a few turns on one thread, in time of the processor and not of the clock: what else the machine does
    does not decide, nor differ from run to run.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        return _measured(shape, ways)
    finally:
        torch.set_num_threads(threads)


def _measured(shape: tuple[int, int], ways: Sequence[Way]) -> dict[Way, float]:
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(rows, shape[1], generator=generator) for rows in (shape[0], _TOKENS))
    with torch.no_grad():
        reference = _both("torch", x, weight)
        runs = {way: weight if way != "bf16" else weight.to(torch.bfloat16) for way in ways}
        runs = {way: own for way, own in runs.items() if way == "torch" or _sound(way, x, own, reference)}
        seconds: dict[Way, float] = dict.fromkeys(runs, float("inf"))
        began = time.perf_counter()
        for _ in range(_ROUNDS):
            for way, own in runs.items():
                seconds[way] = min(seconds[way], _seconds(lambda way=way, own=own: _both(way, x, own)))  # type: ignore[misc]
            if time.perf_counter() - began > _SECONDS:
                break
    return seconds


def _both(way: Way, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    y = forward(way, x, weight, None)
    return y, through(way, y, weight)


def _sound(way: Way, x: Tensor, weight: Tensor, reference: tuple[Tensor, Tensor]) -> bool:
    """Whether a way runs here and gives the right numbers."""
    try:
        found = _both(way, x, weight)
    except (RuntimeError, AttributeError, TypeError) as error:  # a torch without it, or with another signature
        log.debug("products with frozen weights: %s does not run here: %r", way, error)
        return False
    return all(difference(a, b) <= BOUNDS[way] for a, b in zip(found, reference, strict=True))


def difference(found: Tensor, wanted: Tensor) -> float:
    """‖found − wanted‖ ÷ ‖wanted‖; infinite where it is not a number or the shapes differ."""
    if found.shape != wanted.shape:
        return float("inf")
    value = float((found - wanted).norm() / wanted.norm().clamp_min(1e-30))
    return value if value == value else float("inf")


def _seconds(run: Callable[[], Any]) -> float:
    began = time.thread_time()
    run()
    return time.thread_time() - began
