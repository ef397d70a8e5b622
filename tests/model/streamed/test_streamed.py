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
from qlora_fast.model.streamed.load import load_streamed
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


class Seen:
    """A source that notes what it is asked for."""

    device_bytes, shared = 0, True

    def __init__(self, fetched: list[int]) -> None:
        self.fetched = fetched
        self.kept: list[Tensor] = []

    def keep(self, index: int, flat: Tensor) -> None:
        self.kept.append(flat.clone())

    def fill(self, index: int, flat: Tensor) -> None:
        self.fetched.append(index)
        flat.copy_(self.kept[index])


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


def passes(
    folder: Path,
    data: PreparedDataset,
    bits: Quantization | None,
    away: bool,
    target: tuple[str, ...] = ("all",),
    dropout: float = 0.0,
    **options: Any,
) -> list[Tensor]:
    """Losses of rows and the gradient, over several passes of both kinds."""
    torch.manual_seed(2)
    base = load_base(str(folder), dtype=torch.float32, device=CPU, quantization=bits)
    stream = streamed(base) if away else None
    model = add_lora(base, LoraSpec(4, 8, dropout, target), seed=0, **options)
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
            # Where no layer has a gradient, none of them comes twice.
            waits = int(target != ("lm_head",))
            assert sum(u.present for u in stream.units) == waits, "only the first layer waits for the next pass"
    return out


def compare(folder: Path, data: PreparedDataset, bits: str, *options: dict[str, Any], within: float = 0.0) -> None:
    for chosen in options:
        here, away = (passes(folder, data, BITS[bits], away, **chosen) for away in (False, True))
        for one, other in zip(here, away, strict=True):
            off = float((one - other).norm()) / max(float(one.norm()), 1e-30)
            assert off <= within, chosen


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


@pytest.mark.parametrize("target", [("lm_head",), ("embed_tokens", "v_proj"), ("embed_tokens", "lm_head", "down_proj")])
@pytest.mark.parametrize("name", tiny.MODELS)
def test_an_adapter_on_any_layer_reads_weights_that_have_come(
    folders: dict[str, Path], data: PreparedDataset, name: str, target: tuple[str, ...]
) -> None:
    options = ({"target": target}, {"target": target, "dropout": 0.2, "checkpointing": True})
    # PEFT computes a head with an adapter there, and adds in another order.
    compare(folders[name], data, "fp32", *options, within=1e-5)


TRAINED: tuple[dict[str, Any], ...] = (
    {"target": ["all"]},
    {"target": ["lm_head"]},
    {"target": ["lm_head"], "also": ["norm"]},
    {"target": ["lm_head", "q_proj"]},
    {"target": ["embed_tokens"]},
    {"target": ["lm_head"], "also": ["0"]},
    {"target": ["lm_head"], "also": ["2"]},
    {"target": ["lm_head"], "also": ["3"]},
    {"target": ["q_proj"], "also": ["embed_tokens"]},
    {"target": ["q_proj"], "also": ["lm_head"]},
)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", tiny.MODELS)
def test_a_rank_without_a_row_fetches_what_the_others_fetch(
    folders: dict[str, Path], data: PreparedDataset, name: str, checkpointing: bool
) -> None:
    """In the same order: each fetch is a collective of all ranks, which would otherwise wait for each other forever."""
    row = packed_row(data, [0, 1])
    for spec in TRAINED:
        fetched: list[int] = []
        source = Seen(fetched)
        whole = spec.get("also", ())
        base = load_streamed(str(folders[name]), source, dtype=torch.float32, device=CPU, resident=whole)
        model = add_lora(base, LoraSpec(4, 8, **spec), seed=0, checkpointing=checkpointing)
        adapter, forward = Adapter(model), Forward(model, CPU)
        assert forward.stream is not None, spec
        seen = []
        for own in (True, True, False, False, True):
            for training in (True, True, False, False, True):
                if not own:
                    forward.idle(training=training)
                elif training:
                    forward.loss_sum(row).backward()  # type: ignore[no-untyped-call]
                else:
                    with forward.scoring():
                        forward.token_losses(row)
            adapter.discard()
            seen.append(fetched.copy())
            fetched.clear()
        assert seen[1:] == [seen[1]] * 4, spec


@pytest.mark.parametrize("name", tiny.MODELS)
def test_a_model_of_one_layer_is_streamed_too(tmp_path: Path, data: PreparedDataset, name: str) -> None:
    compare(tiny.save(tiny.MODELS[name](num_hidden_layers=1), tmp_path), data, "fp32", {}, {"checkpointing": True})


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
