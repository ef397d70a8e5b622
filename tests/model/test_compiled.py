"""Compiled layers compute what the layers do: loss and gradient, packed and padded, whatever the adapter."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo as dynamo
from benches.gpu.shapes import quantize
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from transformers import Olmo2Config, Olmo2ForCausalLM

import tiny
from prepared import write_prepared
from qlora_fast.data.batch import Row, packed_row, padded_row
from qlora_fast.data.dataset import PreparedDataset, open_prepared
from qlora_fast.model import compiled
from qlora_fast.model.compiled import CompiledLayers, layers_to_compile, missing
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.train.forward import Forward

CPU = torch.device("cpu")


def olmo2() -> nn.Module:
    """An architecture that our kernels know nothing of."""
    shape = {**tiny._SHAPE, "num_hidden_layers": 3, "pad_token_id": 0}
    return tiny._frozen(Olmo2ForCausalLM, Olmo2Config(**shape), 0, tiny.NAME)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "olmo2": olmo2,
    "qwen3": lambda: tiny.qwen3(num_hidden_layers=3),
    "llama": lambda: tiny.llama(num_hidden_layers=3),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Samples of one token, of none that is supervised, and ordinary ones."""
    rng = np.random.default_rng(1)
    kinds = [(9, [(3, 9)]), (1, []), (5, []), (40, [(2, 5), (9, 30)]), (2, [(1, 2)]), (17, [(4, 17)])]
    samples = [(rng.integers(3, tiny.VOCAB, n).tolist(), spans) for n, spans in kinds]
    return open_prepared(write_prepared(tmp_path_factory.mktemp("compiled") / "p", samples))


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What was compiled before is forgotten, and afterwards what was compiled here."""
    dynamo.reset()
    compiled._function.cache_clear()
    dynamo.utils.counters.clear()
    yield
    dynamo.reset()
    compiled._function.cache_clear()


@pytest.fixture
def without_code(forgotten: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's graphs run as they are: traced, taken apart into forward and backward, and not translated to C++."""

    @lru_cache
    def traced(forward: Callable[..., Any], whole: bool) -> Callable[..., Any]:
        return torch.compile(forward, dynamic=True, fullgraph=whole, backend="aot_eager")

    monkeypatch.setattr(compiled, "_function", traced)


def warm(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=generator)
    return model


def outcome(forward: Forward, adapter: Adapter, row: Row) -> tuple[Tensor, Tensor]:
    adapter.discard()
    with torch.random.fork_rng([]):
        loss = forward.loss_sum(row)
        (loss / 7).backward()
    adapter.collect()
    return loss.detach(), adapter.gradient.clone()


def off(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> float:
    """The larger of the relative differences of loss and gradient."""
    return max(float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(found, wanted, strict=True))


def check(model: nn.Module, rows: list[Row], bound: float, *, whole: bool = False) -> CompiledLayers:
    """Each row eagerly, then compiled."""
    adapter, forward = Adapter(model), Forward(model, CPU)
    wanted = [outcome(forward, adapter, row) for row in rows]
    layers = CompiledLayers(layers_to_compile(model), whole=whole)
    for row, eager in zip(rows, wanted, strict=True):
        assert eager[1].norm() > 0
        assert off(outcome(forward, adapter, row), eager) <= bound
    assert layers.on, layers.problem
    return layers


def packed(data: PreparedDataset) -> list[Row]:
    return [packed_row(data, samples) for samples in (range(6), [5, 3], [3, 4, 0, 1], [0, 5, 2])]


@pytest.mark.slow
def test_traced_layers_of_an_unknown_architecture_compute_what_they_do(
    data: PreparedDataset, without_code: None
) -> None:
    """Rows of other lengths and with other samples run the code of the first one, and so does every layer."""
    model = warm(add_lora(olmo2(), LoraSpec(4, 8), seed=0))
    rows = packed(data)
    check(model, rows[:1], 1e-5)
    graphs = dynamo.utils.counters["stats"]["unique_graphs"]
    adapter, forward = Adapter(model), Forward(model, CPU)
    one_by_one = sum((outcome(forward, adapter, packed_row(data, [i]))[1] for i in (0, 3, 4, 5)), torch.zeros(()))
    assert float((one_by_one - outcome(forward, adapter, rows[0])[1]).norm() / one_by_one.norm()) <= 1e-5
    assert dynamo.utils.counters["stats"]["unique_graphs"] == graphs > 0


def test_scores_and_the_first_layer_are_not_compiled(data: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []

    def spied(forward: Callable[..., Any], whole: bool) -> Callable[..., Any]:
        def run(layer: Any, *args: Any, **options: Any) -> Any:
            ran.append(layer)
            return forward(layer, *args, **options)

        return run

    monkeypatch.setattr(compiled, "_function", spied)
    model = warm(add_lora(olmo2(), LoraSpec(4, 8), seed=0))
    CompiledLayers(layers_to_compile(model), whole=False)
    forward = Forward(model, CPU)
    with forward.scoring():
        forward.token_losses(packed(data)[0])
    assert not ran
    forward.loss_sum(packed(data)[0])
    inner: Any = model.get_base_model()  # type: ignore[operator]
    assert ran == list(inner.model.layers)[1:]


def test_code_that_cannot_be_compiled_runs_as_it_is(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(forward: Callable[..., Any], whole: bool) -> Callable[..., Any]:
        def run(*_: Any, **__: Any) -> Any:
            raise Unsupported("a call of a C function\nwith details")

        return run

    model = warm(add_lora(olmo2(), LoraSpec(4, 8), seed=0))
    adapter, forward = Adapter(model), Forward(model, CPU)
    wanted = outcome(forward, adapter, packed(data)[0])
    monkeypatch.setattr(compiled, "_function", refuses)
    layers = CompiledLayers(layers_to_compile(model), whole=True)
    assert off(outcome(forward, adapter, packed(data)[0]), wanted) == 0
    assert not layers.on
    assert layers.problem == "a call of a C function"
    assert "from here on: a call of a C function" in caplog.text


def test_a_machine_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing(CPU) is None or "no " in str(missing(CPU))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert str(missing(CPU)).startswith("there is no C++ compiler (")
    monkeypatch.setattr(shutil, "which", str)
    monkeypatch.setattr(compiled.sysconfig, "get_path", lambda _: "/nowhere")
    assert missing(CPU) == "there are no headers of Python (Python.h)"


SPECS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "DoRA": {"dora": True},
    "trained embedding": {"also": ("embed_tokens",)},
    "two targets": {"target": ("q_proj", "down_proj")},
}


@pytest.mark.slow
@pytest.mark.skipif(missing(CPU) is not None, reason=str(missing(CPU)))
class TestInductor:
    """The code that runs in the end, each with PEFT's and with our products."""

    @pytest.mark.parametrize("kernels", ["auto", "off"])
    @pytest.mark.parametrize("name", MODELS)
    def test_packed_and_padded(self, name: str, kernels: Any, data: PreparedDataset, forgotten: None) -> None:
        model = warm(add_lora(MODELS[name](), LoraSpec(4, 8), seed=0, kernels=kernels))
        check(model, packed(data), 1e-5)
        check(model, [padded_row(data, [0, 3, 5]), padded_row(data, [5, 4])], 1e-5, whole=True)

    @pytest.mark.parametrize("spec", SPECS)
    def test_adapters(self, spec: str, data: PreparedDataset, forgotten: None) -> None:
        check(warm(add_lora(olmo2(), LoraSpec(4, 8, **SPECS[spec]), seed=0)), packed(data), 1e-5)

    def test_recomputed_activations(self, data: PreparedDataset, forgotten: None) -> None:
        check(warm(add_lora(olmo2(), LoraSpec(4, 8), seed=0, checkpointing=True)), packed(data), 1e-5)

    @pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
    def test_16_bits(self, dtype: torch.dtype, bound: float, data: PreparedDataset, forgotten: None) -> None:
        """Also no further from the exact gradient than eager code is, within a half."""
        row = packed(data)[0]
        model = warm(add_lora(olmo2().to(dtype), LoraSpec(4, 8), seed=0))
        exact = warm(add_lora(olmo2().to(dtype).float(), LoraSpec(4, 8), seed=0))
        wanted = outcome(Forward(exact, CPU), Adapter(exact), row)
        adapter, forward = Adapter(model), Forward(model, CPU)
        eager = outcome(forward, adapter, row)
        CompiledLayers(layers_to_compile(model), whole=False)
        found = outcome(forward, adapter, row)
        assert off(found, eager) <= bound
        assert off(found, wanted) <= 1.5 * off(eager, wanted)

    def test_four_bits(self, data: PreparedDataset, forgotten: None) -> None:
        pytest.importorskip("bitsandbytes")
        model = quantize(olmo2())
        check(warm(add_lora(model, LoraSpec(4, 8), seed=0)), packed(data), 1e-5)

    def test_dropout_is_drawn_again_from_the_same_seed(self, data: PreparedDataset, forgotten: None) -> None:
        model = warm(add_lora(olmo2(), LoraSpec(4, 8, dropout=0.2), seed=0, checkpointing=True))
        adapter, forward, row = Adapter(model), Forward(model, CPU), packed(data)[0]
        eager = outcome(forward, adapter, row)
        CompiledLayers(layers_to_compile(model), whole=False)
        first, again = outcome(forward, adapter, row), outcome(forward, adapter, row)
        assert off(first, again) == 0
        assert 1e-4 < off(first, eager) < 1, "other numbers are dropped"
        torch.manual_seed(1)
        assert off(outcome(forward, adapter, row), again) > 1e-4
