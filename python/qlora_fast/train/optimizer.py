"""AdamW over the flat adapter, and the clipping of its gradient. Nothing here waits for the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.train.bnb_optimizer import KINDS, BitsAndBytes
from qlora_fast.train.loss_scale import LossScale
from qlora_fast.train.one_pass import OnePass, Stretch


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamWOptions:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    Attributes:
        kind: ``adamw_torch``, or one of bitsandbytes'.
        max_grad_norm: clip the gradient to this global norm; 0 never clips.
        ratios: multiples of the rate by :attr:`Group.side`; LoRA+ (Hayou et al. 2024) lets ``b`` learn faster.
        scaled: multiply the loss, for fp16; an update that overflows is left out then.
    """

    kind: str = "adamw_torch"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    ratios: Mapping[str, float] = field(default_factory=dict)
    scaled: bool = False


class _Kernel(Protocol):
    """An optimizer's arithmetic over a few flat vectors."""

    def step(self, rates: Sequence[float], found_inf: Tensor) -> None: ...
    def tensors(self) -> dict[str, Tensor]: ...
    def load(self, tensors: dict[str, Tensor]) -> None: ...
    def nbytes(self) -> int: ...


class AdamW:
    """One kernel per group over one vector. An update whose gradient is not finite changes nothing."""

    def __init__(self, adapter: Adapter, options: AdamWOptions, *, kernels: bool = False) -> None:
        """``kernels``: whether Triton programs run on the adapter's device."""
        self._adapter = adapter
        self._max_norm = options.max_grad_norm
        self.scale = LossScale(adapter.weights.device) if options.scaled else None
        self._ratios: list[float] = []
        groups: list[dict[str, Any]] = []
        stretches: list[Stretch] = []
        for (ratio, decay), stretch in groupby(
            adapter.groups,
            key=lambda g: (options.ratios.get(g.side, 1.0), options.weight_decay if g.decays else 0.0),
        ):
            parts = list(stretch)
            part = slice(parts[0].start, parts[-1].end)
            flat = torch.nn.Parameter(adapter.weights[part])
            flat.grad = adapter.gradient[part]
            self._ratios.append(ratio)
            groups.append({"params": [flat], "weight_decay": decay})
            stretches.append(Stretch(adapter.weights[part], adapter.gradient[part], adapter.seen[part], decay))
        self._kernel: _Kernel | OnePass
        if kernels and options.kind not in KINDS:
            self._kernel = OnePass(stretches, options.betas, options.eps, options.max_grad_norm)
        elif options.kind in KINDS:
            self._kernel = BitsAndBytes(options.kind, groups, options.betas, options.eps)
        else:
            self._kernel = _Torch(groups, options.betas, options.eps)

    @torch.no_grad()
    def step(self, lr: float) -> Tensor:
        """Clip, update at rate ``lr``, and show the model its new weights.

        Returns:
            The gradient's norm before clipping, a scalar on the device. Not finite exactly when nothing was changed; but
            an overflow that the scale is there for gives 0.
        """
        gradient = self._adapter.gradient
        if self.scale is not None:
            gradient.div_(self.scale.value)
        norm: Tensor = torch.linalg.vector_norm(gradient)
        rates = [lr * ratio for ratio in self._ratios]
        found_inf = (~norm.isfinite()).float()
        if isinstance(self._kernel, OnePass):
            self._kernel.step(rates, norm)
        else:
            if self._max_norm > 0:
                gradient.mul_((self._max_norm / (norm + 1e-6)).clamp_(max=1.0))
            self._kernel.step(rates, found_inf)
            self._adapter.publish()
        if self.scale is not None:
            self.scale.update(found_inf)
            norm = torch.where(norm.isfinite(), norm, 0.0)
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """Everything that it remembers, on the host."""
        own = {f"adam.{name}": value for name, value in self._kernel.tensors().items()}
        return own if self.scale is None else own | self.scale.tensors()

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what :meth:`tensors` returned; a missing one is a KeyError, never a zero."""
        self._kernel.load({n.removeprefix("adam."): v for n, v in tensors.items() if n.startswith("adam.")})
        if self.scale is not None:
            self.scale.load(tensors)

    def nbytes(self) -> int:
        """Bytes of its state."""
        return self._kernel.nbytes()


class _Torch:
    """torch's fused kernel."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float) -> None:
        self._adam = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
        for flat in self._flats():
            zeros = torch.zeros_like(flat.data)
            state = {"step": torch.zeros((), device=zeros.device), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
            self._adam.state[flat] = state

    def step(self, rates: Sequence[float], found_inf: Tensor) -> None:
        for group, rate in zip(self._adam.param_groups, rates, strict=True):
            group["lr"] = rate
        # The protocol of torch's GradScaler: the kernel leaves everything as it is where this is 1.
        self._adam.found_inf = found_inf  # type: ignore[attr-defined]
        self._adam.step()

    def tensors(self) -> dict[str, Tensor]:
        return {name: value.detach().to("cpu", copy=True) for name, value in self._named()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        for name, value in self._named():
            value.copy_(tensors[name])

    def nbytes(self) -> int:
        return sum(value.nbytes for _, value in self._named())

    def _named(self) -> list[tuple[str, Tensor]]:
        states = [self._adam.state[flat] for flat in self._flats()]
        return [(f"{g}.{name}", value) for g, state in enumerate(states) for name, value in state.items()]

    def _flats(self) -> list[torch.nn.Parameter]:
        return [group["params"][0] for group in self._adam.param_groups]
