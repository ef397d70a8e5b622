"""One micro-batch of training as the package does it, for the items that look inside of it."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import torch

from benches.gpu.counting import Operations, operations
from benches.gpu.product import AdamW, AdamWOptions, Adapter, Forward, LoraSpec, Row, add_lora, packed_row, report_of
from benches.gpu.shapes import ModelShape, make_data, make_model, samples_of

SPEC = LoraSpec(rank=16, alpha=32)


def free_memory() -> None:
    """Give back what dropped models held: patched modules refer to themselves, so it takes a collection."""
    gc.collect()
    torch.cuda.empty_cache()


@dataclass(slots=True)
class MicroBatch:
    """A model with its adapter and one packed row."""

    forward: Forward
    adapter: Adapter
    optimizer: AdamW
    row: Row

    @classmethod
    def make(cls, folder: Path, shape: ModelShape, tokens: int, checkpointing: bool = False) -> MicroBatch:
        """A row of at most ``tokens`` tokens, in bf16."""
        device = torch.device("cuda", 0)
        model = add_lora(make_model(shape, device, torch.bfloat16), SPEC, seed=0, checkpointing=checkpointing)
        data = make_data(folder, max(8, tokens // 40), shape.vocab)
        adapter = Adapter(model)
        forward = Forward(model, device)
        return cls(
            forward,
            adapter,
            AdamW(adapter, AdamWOptions(), kernels=report_of(model).kernels),
            packed_row(data, samples_of(data, tokens)),
        )

    def loss(self) -> torch.Tensor:
        return self.forward.loss_sum(self.row) / 1000

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        self.adapter.collect()

    def step(self) -> torch.Tensor:
        """The optimizer's part; gives the gradient's norm, still on the device."""
        return self.optimizer.step(1e-4)

    def whole(self) -> torch.Tensor:
        self.backward(self.loss())
        return self.step()

    def counted(self) -> dict[str, Operations]:
        """Operations of the three parts of a step."""
        with operations() as forward:
            loss = self.loss()
        with operations() as backward:
            self.backward(loss)
        with operations() as step:
            self.step()
        return {"forward": forward, "backward": backward, "step": step}
