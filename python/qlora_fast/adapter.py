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
from math import prod

import torch
from torch import Tensor, nn

from qlora_fast.errors import ArtifactError, TrainingError

_ALIGN = 16
"""Every matrix starts at a multiple of this many values, so that kernels may load them in vectors."""


class Adapter:
    """The trainable parameters of a PEFT model; taking them over replaces their storage.

    Attributes:
        weights: (P,) fp32, what is optimized and saved.
        gradient: (P,) fp32, the sum over the rows of an update.
        names: the matrices' names as PEFT stores them.
    """

    def __init__(self, model: nn.Module) -> None:
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise TrainingError("the model has no trainable parameters", hint="add an adapter first")
        self.names = [_stored_name(n) for n, _ in named]
        self.parameters = [p for _, p in named]
        self.shapes = [tuple(p.shape) for p in self.parameters]
        device = self.parameters[0].device
        starts = [0]
        for shape in self.shapes:
            starts.append(-(-(starts[-1] + prod(shape)) // _ALIGN) * _ALIGN)
        self._starts = starts
        self.weights = torch.zeros(starts[-1], device=device)
        self.gradient = torch.zeros_like(self.weights)
        for view, parameter in zip(self._views(self.weights), self.parameters, strict=True):
            view.copy_(parameter.detach())
        dtype = _compute_dtype(model)
        # The buffers that the model sees: the same ones in fp32, 16-bit copies otherwise.
        self._seen = self.weights if dtype == torch.float32 else self.weights.to(dtype)
        self._seen_gradient = self.gradient if dtype == torch.float32 else torch.zeros_like(self._seen)
        views = zip(self.parameters, self._views(self._seen), self._views(self._seen_gradient), strict=True)
        for parameter, weight, gradient in views:
            parameter.data = weight
            parameter.grad = gradient

    def __len__(self) -> int:
        return sum(prod(shape) for shape in self.shapes)

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

    def tensors(self) -> dict[str, Tensor]:
        """The matrices in fp32 on the host, by their PEFT names."""
        host = self.weights.detach().to("cpu", copy=True)
        return {n: v.clone() for n, v in zip(self.names, self._views(host), strict=True)}

    def load(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Replace all weights.

        Raises:
            ArtifactError: a matrix is missing, unknown, or of another shape; nothing is changed then.
        """
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

    def _views(self, flat: Tensor) -> list[Tensor]:
        return [
            flat[start : start + prod(shape)].view(shape)
            for start, shape in zip(self._starts, self.shapes, strict=False)
        ]


def _stored_name(name: str) -> str:
    """PEFT leaves the adapter's own name (``default``) out of its files."""
    return name.replace(".default.", ".")


def _compute_dtype(model: nn.Module) -> torch.dtype:
    """The dtype in which activations flow: that of the token embedding, which is never quantized."""
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype  # type: ignore[operator]
    return dtype
