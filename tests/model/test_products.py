"""Products with frozen weights by other libraries: equal to torch's within their bound, and taken only where they pay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from prepared import random_dataset
from qlora_fast.data.batch import Row, packed_row
from qlora_fast.model import fused_lora, patch, products
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.frozen import Frozen
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.model.products import BOUNDS, TORCH, Products, Wanted, Way, choose, difference, judged, measured
from qlora_fast.train.forward import Forward

CPU = torch.device("cpu")
ONEDNN = Products("onednn", "onednn", "a test says so")
ROUNDED = Products("onednn", "bf16", "a test says so")

# What a bf16 product of the frozen weights may change in a step: stated in docs and BENCHMARKS, held here.
LOSS_BOUND, GRADIENT_BOUND = 5e-3, 3e-2


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Row:
    data = random_dataset(tmp_path_factory.mktemp("products") / "p", 8, vocab=tiny.VOCAB, longest=60, seed=5)
    return packed_row(data, range(8))


def test_who_is_taken_follows_the_times() -> None:
    def taken(**seconds: float) -> tuple[Way, Way]:
        found = judged(seconds)  # type: ignore[arg-type]
        return found.exact, found.training

    assert taken(torch=1.0, onednn=0.5, bf16=0.2) == ("onednn", "bf16")
    assert taken(torch=1.0, onednn=0.95, bf16=0.2) == ("torch", "bf16")
    assert taken(torch=1.0, onednn=0.5, bf16=0.45) == ("onednn", "onednn"), "rounding has to pay for itself"
    assert taken(torch=1.0, onednn=0.9, bf16=0.9) == ("torch", "torch"), "a tenth is noise"
    assert taken(torch=1.0, onednn=0.5) == ("onednn", "onednn")
    assert taken(torch=1.0) == ("torch", "torch")


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        ({"torch": 4.0, "onednn": 2.0, "bf16": 1.0}, ("onednn", "bf16")),  # AVX512-BF16 or AMX
        ({"torch": 4.0, "onednn": 4.1, "bf16": 9.0}, ("torch", "torch")),  # bf16 is emulated
    ],
)
def test_a_model_computes_by_what_the_probe_found(
    seconds: dict[Way, float], wanted: tuple[Way, Way], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_CHOSEN", {})
    monkeypatch.setattr(products, "_NARROW", 16)
    monkeypatch.setattr(products, "measured", lambda shape, ways: {way: seconds[way] for way in ways})
    model = add_lora(tiny.llama(), LoraSpec(4, 8), seed=0, products=Wanted(rounding=True))
    report = patch.report_of(model)
    assert (report.products.exact, report.products.training) == wanted
    found = report.described()["products"]
    assert (found["scores"], found["training"]) == wanted
    assert "torch 4e+03 ms" in found["why"]
    exact = patch.report_of(add_lora(tiny.llama(), LoraSpec(4, 8), seed=0)).products
    assert exact.training == exact.exact == wanted[0], "rounding was not allowed here"


def test_narrow_layers_gpus_and_16_bits_are_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "measured", lambda *_: pytest.fail("probed"))
    for shapes, dtype, device in (
        ([(64, 4096), (255, 900)], torch.float32, CPU),
        ([], torch.float32, CPU),
        ([(4096, 4096)], torch.bfloat16, CPU),
        ([(4096, 4096)], torch.float32, torch.device("cuda")),
    ):
        found = choose(shapes, dtype, device, rounding=True)
        assert found.exact == found.training == "torch"
        assert found.why


def test_a_library_that_is_wrong_or_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    ways: Sequence[Way] = ("torch", "onednn", "bf16")
    assert set(measured((96, 64), ways)) == set(ways)

    def fails(*_: Any) -> Tensor:
        raise RuntimeError("no such operation")

    for library in (fails, lambda x, w, b: (x @ w.t()) * (1 + 1e-4), lambda x, w, b: (x @ w.t()) * float("nan")):
        monkeypatch.setattr(products, "_onednn", library)
        assert set(measured((96, 64), ways)) == {"torch", "bf16"}


def test_the_probe_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        measured((96, 64), ("torch",))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("way", ["onednn", "bf16"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tokens", [1, 3, 130])
def test_each_way_is_torchs_product_within_its_bound(way: Way, bias: bool, tokens: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(67, 131, bias=bias).requires_grad_(False)
    ours = Frozen.of(layer, kernels=False, products=ROUNDED)
    plain = Frozen.of(layer, kernels=False)
    assert ours is not None
    assert plain is not None
    inputs = {
        "plain": torch.randn(tokens, 67),
        "columns of a wider one": torch.randn(tokens, 90)[:, 7:74],
        "transposed": torch.randn(67, tokens).t(),
        "expanded": torch.randn(67).expand(tokens, 67),
    }
    for name, x in inputs.items():
        assert difference(ours.forward(x, way), plain.forward(x, "torch")) <= BOUNDS[way], name
    gradients = {"plain": torch.randn(tokens, 131), "expanded": torch.ones(1, 1).expand(tokens, 131)}
    for name, g in gradients.items():
        assert difference(ours.through(g, way), plain.through(g, "torch")) <= BOUNDS[way], name


def test_the_rounded_weight_follows_the_weight() -> None:
    layer = nn.Linear(8, 8, bias=False).requires_grad_(False)
    frozen = Frozen.of(layer, kernels=False, products=ROUNDED)
    assert frozen is not None
    x = torch.randn(4, 8)
    before = frozen.forward(x, "bf16")
    with torch.no_grad():
        layer.weight.mul_(2)
    assert torch.equal(frozen.forward(x, "bf16"), 2 * before)


def outcome(model: nn.Module, row: Row) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, gradient, losses of the tokens without a gradient)."""
    adapter, forward = Adapter(model), Forward(model, CPU)
    loss = forward.loss_sum(row) / len(row.targets)
    loss.backward()  # type: ignore[no-untyped-call]
    with forward.scoring():
        scores = forward.token_losses(row)[0]
    return loss.detach(), adapter.gradient.clone(), scores


def with_products(model: nn.Module, taken: Products, monkeypatch: pytest.MonkeyPatch, **spec: Any) -> nn.Module:
    monkeypatch.setattr(patch, "choose", lambda *_, **__: taken)
    peft = add_lora(model, LoraSpec(**{"rank": 4, "alpha": 8, **spec}), seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=generator)
    return peft


SPECS: dict[str, dict[str, Any]] = {
    "all layers": {},
    "some layers": {"target": ["q_proj", "down_proj"]},
    "dora": {"dora": True},
    "whole embedding": {"also": ["embed_tokens"]},
}


@pytest.mark.parametrize("kind", tiny.MODELS)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_steps_and_scores_of_a_model(
    kind: str, spec: dict[str, Any], row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = outcome(with_products(tiny.MODELS[kind](), TORCH, monkeypatch, **spec), row)
    exact = outcome(with_products(tiny.MODELS[kind](), ONEDNN, monkeypatch, **spec), row)
    assert all(difference(a, b) < 1e-5 for a, b in zip(exact, wanted, strict=True))
    loss, gradient, scores = outcome(with_products(tiny.MODELS[kind](), ROUNDED, monkeypatch, **spec), row)
    assert torch.equal(scores, exact[2]), "scores are fp32"
    assert 0 < difference(loss, wanted[0]) < LOSS_BOUND
    assert 0 < difference(gradient, wanted[1]) < GRADIENT_BOUND


def test_every_frozen_layer_but_the_head_takes_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_products(tiny.llama(), ONEDNN, monkeypatch, target=["q_proj"])
    own = {name for name, m in model.named_modules() if isinstance(m, fused_lora._Fused | fused_lora._FusedFrozen)}
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear) and not m.weight.requires_grad}
    assert {name.removesuffix(".base_layer") for name in own} == {
        name.removesuffix(".base_layer") for name in linear if "lm_head" not in name
    }
    assert Forward(model, CPU).plain_head


def test_dtype_auto_allows_rounding_and_fp32_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qlora_fast.config import of
    from qlora_fast.data.tokenizer import tokenizer_of
    from qlora_fast.train import setup
    from qlora_fast.train.distributed import Ranks
    from qlora_fast.train.kept import NOTHING_KEPT

    seen: list[bool] = []

    def spied(model: nn.Module, spec: LoraSpec, **options: Any) -> nn.Module:
        seen.append(options["products"].rounding)
        return model

    monkeypatch.setattr(setup, "add_lora", spied)
    folder = tiny.model_folder(tmp_path / "m")
    for settings in ({}, {"dtype": "fp32"}):
        config = of(model_name_or_path=str(folder), dataset="general", **settings)
        setup._model(
            config, str(folder), tokenizer_of(config), setup.Machine(CPU, torch.float32), Ranks(), NOTHING_KEPT
        )
    assert seen == [True, False]
