"""A streamed base computes what it computes on the device, bit for bit, and is never there as a whole."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from prepared import random_dataset
from qlora_fast.data.batch import packed_row
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.load import Quantization, load_base
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.model.streamed import hooks
from qlora_fast.model.streamed.stream import Stream
from qlora_fast.model.streamed.unit import Unit
from qlora_fast.train.forward import Forward
from tiny_run import CPU

BITS = {
    "fp32": None,
    "nf4": Quantization(),
    "nf4 of fp32 scales": Quantization(double=False),
    "int8": Quantization(bits=8),
}


class Late:
    """A source whose buffers hold nonsense until they are waited for; it sees that there are never more than two of them."""

    def __init__(self, units: list[Unit]) -> None:
        self.kept: list[Tensor] = []
        self.units = units

    def keep(self, index: int, flat: Tensor) -> None:
        assert index == len(self.kept)
        self.kept.append(flat.clone())

    def fill(self, index: int, flat: Tensor) -> Any:
        assert sum(unit.present for unit in self.units) <= 2, "this unit and the one that is used"
        flat.fill_(0xFF)
        kept = self.kept[index]

        class Copy:
            def wait(self) -> None:
                with torch.no_grad():
                    flat.copy_(kept)

        return Copy()


def streamed(model: nn.Module) -> Stream:
    """The base of a model moved into a source, and hooks that bring it back."""
    units: list[Unit] = []
    parts, source = hooks.parts_of(model), Late(units)
    places: list[int] = []
    for part in parts:
        weight = getattr(part, "weight", None)
        if weight is not None and weight is getattr(parts[0], "weight", None) and units:
            places.append(0)
            continue
        units.append(Unit(type(part).__name__, [part]))
        places.append(len(units) - 1)
        source.keep(len(units) - 1, units[-1].flat)
        units[-1].free()
    stream = Stream(units, places, source, CPU)
    hooks.install(parts, stream)
    return stream


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return random_dataset(tmp_path_factory.mktemp("streamed") / "p", 12, vocab=tiny.VOCAB, longest=30)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: make(num_hidden_layers=4) for name, make in tiny.MODELS.items()}
    return {name: tiny.save(model, tmp_path_factory.mktemp(name)) for name, model in made.items()}


def passes(folder: Path, data: PreparedDataset, bits: Quantization | None, away: bool, **options: Any) -> list[Tensor]:
    """Losses of rows and the gradient, over several passes of both kinds."""
    base = load_base(str(folder), dtype=torch.float32, device=CPU, quantization=bits)
    stream = streamed(base) if away else None
    model = add_lora(base, LoraSpec(4, 8), seed=0, **options)
    adapter, forward = Adapter(model), Forward(model, CPU)
    with torch.no_grad():
        adapter.weights.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
        adapter.publish()
    out = []
    for ids in ([0, 1, 2], [3, 4], [5]):
        row = packed_row(data, ids)
        with forward.scoring():
            out.append(forward.token_losses(row)[0])
        loss = forward.loss_sum(row)
        loss.backward()  # type: ignore[no-untyped-call]
        out += [loss.detach(), adapter.gradient.clone()]
        if stream is not None:
            assert sum(u.present for u in stream.units) == 1, "only the first layer waits for the next pass"
    return out


def compare(folder: Path, data: PreparedDataset, bits: str, *options: dict[str, Any]) -> None:
    for chosen in options:
        here, away = (passes(folder, data, BITS[bits], away, **chosen) for away in (False, True))
        for one, other in zip(here, away, strict=True):
            assert torch.equal(one, other), chosen


ALL: tuple[dict[str, Any], ...] = (
    {},
    {"checkpointing": True},
    {"kernels": "off"},
    {"kernels": "off", "checkpointing": True},
)


@pytest.mark.parametrize(("name", "bits"), [("qwen3", "nf4"), ("llama", "fp32")])
def test_a_streamed_base_gives_the_same_bits(
    folders: dict[str, Path], data: PreparedDataset, name: str, bits: str
) -> None:
    compare(folders[name], data, bits, ALL[1], ALL[2])


@pytest.mark.parametrize("away", [True, False])
@pytest.mark.parametrize("options", ALL[1:3])
def test_nothing_of_a_row_stays_behind(
    folders: dict[str, Path], data: PreparedDataset, away: bool, options: dict[str, Any]
) -> None:
    base = load_base(str(folders["qwen3"]), dtype=torch.float32, device=CPU)
    if away:
        streamed(base)
    model = add_lora(base, LoraSpec(4, 8), seed=0, **options)
    adapter, forward = Adapter(model), Forward(model, CPU)
    row, alive = packed_row(data, [0, 1, 2]), []
    gc.collect()
    gc.freeze()  # what is there already is neither visited nor counted
    try:
        for rows in (3, 8):
            for _ in range(rows):
                forward.loss_sum(row).backward()  # type: ignore[no-untyped-call]
                adapter.collect()
            gc.collect()
            alive.append(len(gc.get_objects()))
    finally:
        gc.unfreeze()
    assert alive[1] - alive[0] < 8, "the graphs of rows are held by their own hooks"


@pytest.mark.slow
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", tiny.MODELS)
def test_so_it_does_in_every_storage(folders: dict[str, Path], data: PreparedDataset, name: str, bits: str) -> None:
    compare(folders[name], data, bits, *ALL)
