"""The trained weights as one flat vector.

All LoRA matrices are views into one fp32 buffer, their gradients into another: clipping is one norm, the optimizer one
kernel, several devices one all-reduce, whatever the number of layers.

On a 16-bit model the matrices that the model multiplies with are 16-bit copies of that vector, renewed after each
update, and each row's gradient is added to the fp32 one. That is the arithmetic of autocast (16-bit products, fp32
weights and sums) without its casts in every layer.

Legend: P trained parameters, padded to the alignment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from qlora_fast.errors import ArtifactError, TrainingError
from qlora_fast.model.pissa import Origin, is_pissa

_ALIGN = 256
"""Every matrix starts at a multiple of this many values: kernels may load them in vectors, and a block of the 8-bit
optimizers, which share one scale, never spans two matrices."""


@dataclass(frozen=True, slots=True)
class Group:
    """A stretch of the flat vector that is optimized alike.

    Attributes:
        side: ``b`` for B matrices and vectors, whose rate LoRA+ raises, ``e`` for those of embeddings, ``a`` for the rest.
        decays: what weight decay pulls on: no biases, no norms.
    """

    start: int
    end: int
    side: str
    decays: bool


class Adapter:
    """The trainable parameters of a PEFT model; taking them over replaces their storage.

    Attributes:
        weights: (P,) fp32, what is optimized and saved.
        gradient: (P,) fp32, the sum over the rows of an update.
        names: the matrices' names as PEFT stores them.
        groups: what is optimized alike stands together.
        origin: where the matrices started, for an adapter that is saved as the difference to it (PiSSA).
    """

    def __init__(self, model: nn.Module) -> None:
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise TrainingError("the model has no trainable parameters", hint="add an adapter first")
        named.sort(key=lambda pair: _kind(*pair))
        self.names = [_stored_name(n) for n, _ in named]
        self.parameters = [p for _, p in named]
        own = {id(p): name for name, p in zip(self.names, self.parameters, strict=True)}
        everything = model.named_parameters(remove_duplicate=False)
        stored = {_stored_name(n): own[id(p)] for n, p in everything if id(p) in own}
        # PEFT wants a head that is tied to the embedding stored under both names.
        self._tied = {name: first for name, first in stored.items() if name != first}
        self.shapes = [tuple(p.shape) for p in self.parameters]
        device = self.parameters[0].device
        starts = [0]
        for shape in self.shapes:
            starts.append(-(-(starts[-1] + prod(shape)) // _ALIGN) * _ALIGN)
        self._starts = starts
        kinds = [_kind(n, p) for n, p in named]
        borders = [i for i in range(len(kinds)) if i == 0 or kinds[i] != kinds[i - 1]]
        self.groups = [
            Group(starts[i], starts[j], side=kinds[i][0], decays=not kinds[i][1])
            for i, j in pairwise([*borders, len(kinds)])
        ]
        self.weights = torch.zeros(starts[-1], device=device)
        self.gradient = torch.zeros_like(self.weights)
        for view, parameter in zip(self._views(self.weights), self.parameters, strict=True):
            view.copy_(parameter.detach())
        self.origin = Origin(model, self._on_host()) if is_pissa(model) else None
        dtype = _compute_dtype(model)
        # The buffers that the model sees: the same ones in fp32, 16-bit copies otherwise.
        self._seen = self.weights if dtype == torch.float32 else self.weights.to(dtype)
        self._seen_gradient = self.gradient if dtype == torch.float32 else torch.zeros_like(self._seen)
        views = zip(self.parameters, self._views(self._seen), self._views(self._seen_gradient), strict=True)
        for parameter, weight, gradient in views:
            parameter.data = weight
            parameter.grad = gradient

    @property
    def seen(self) -> Tensor:
        """(P,) what the model multiplies with: the weights themselves, or their copy in 16 bits."""
        return self._seen

    def __len__(self) -> int:
        return sum(prod(shape) for shape in self.shapes)

    def nbytes(self) -> int:
        """Bytes of the weights and their gradient, with the copies that the model sees."""
        flat = {t.data_ptr(): t.nbytes for t in (self.weights, self.gradient, self._seen, self._seen_gradient)}
        return sum(flat.values())

    def collect(self) -> None:
        """Add the gradient of the row just run to the update's."""
        if self._seen_gradient is not self.gradient:
            self.gradient.add_(self._seen_gradient)
            self._seen_gradient.zero_()

    def publish(self) -> None:
        """Let the model see the weights that the optimizer has just changed, and start a new gradient."""
        if self._seen is not self.weights:
            self._seen.copy_(self.weights)
        self.gradient.zero_()

    def discard(self) -> None:
        """Forget the gradient of rows that were run for another reason than an update."""
        self._seen_gradient.zero_()
        self.gradient.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """What a folder holds that PEFT loads onto the base model: fp32, on the host, by PEFT's names."""
        host = self._on_host()
        host |= {name: host[first].clone() for name, first in self._tied.items()}
        return host if self.origin is None else self.origin.widen(host)

    def load(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Restore what :meth:`tensors` returned.

        Raises:
            ArtifactError: a matrix is missing, unknown, or of another shape; nothing is changed then.
        """
        tensors = {name: value for name, value in tensors.items() if name not in self._tied}
        if self.origin is not None:
            tensors = self.origin.narrow(tensors)
        missing, extra = sorted(set(self.names) - set(tensors)), sorted(set(tensors) - set(self.names))
        wrong = [n for n, s in zip(self.names, self.shapes, strict=True) if n in tensors and tensors[n].shape != s]
        if missing or extra or wrong:
            found = {"it lacks": missing, "it has an unknown": extra, "another shape of": wrong}
            problem = next(f"{what} `{names[0]}`" for what, names in found.items() if names)
            raise ArtifactError(
                f"the adapter in `{where}` does not fit this model: {problem}",
                hint="use the base model and the lora settings that it was trained with",
            )
        for name, view in zip(self.names, self._views(self.weights), strict=True):
            view.copy_(tensors[name])
        self.publish()

    def _on_host(self) -> dict[str, Tensor]:
        host = self.weights.detach().to("cpu", copy=True)
        return {n: v.clone() for n, v in zip(self.names, self._views(host), strict=True)}

    def _views(self, flat: Tensor) -> list[Tensor]:
        return [
            flat[start : start + prod(shape)].view(shape)
            for start, shape in zip(self._starts, self.shapes, strict=False)
        ]


def _stored_name(name: str) -> str:
    """PEFT leaves the adapter's own name (``default``) out of its files, and what is only there while training."""
    name = name.replace(".modules_to_save.default.", ".").replace(".default.", ".")
    name = name.removesuffix(".default")
    return name.removesuffix(".weight") if ".lora_magnitude_vector." in name else name


def _kind(name: str, parameter: nn.Parameter) -> tuple[str, bool]:
    """(side, never decays), as PEFT's LoRA+ has them."""
    still = name.endswith("bias") or "norm" in name.split(".modules_to_save.")[0].rsplit(".", 1)[-1]
    side = "e" if "lora_embedding_B" in name else "b" if "lora_B" in name or parameter.ndim == 1 else "a"
    return side, still


def _compute_dtype(model: nn.Module) -> torch.dtype:
    """The dtype in which activations flow: that of the token embedding, which is never quantized."""
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype  # type: ignore[operator]
    return dtype
