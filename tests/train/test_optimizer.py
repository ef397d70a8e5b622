"""Every optimizer: what an update is, that it goes on bit for bit, and that an overflow changes nothing."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tiny
from prepared import random_dataset
from qlora_fast.config import Config
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.errors import ArtifactError, TrainingError
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.train.bnb_optimizer import KINDS
from qlora_fast.train.loss_scale import HOPELESS
from qlora_fast.train.optimizer import AdamW, AdamWOptions
from qlora_fast.train.trainer import Trainer
from tiny_run import losses, tiny_run, weights_digest

ALL: dict[str, dict[str, Any]] = {kind: {"kind": kind} for kind in ("adamw_torch", *KINDS)} | {
    "LoRA+": {"ratios": {"b": 16.0}},
    "LoRA+ in 8 bits": {"kind": "adamw_8bit", "ratios": {"b": 4.0}},
    "weight decay": {"weight_decay": 0.1},
    "scaled loss": {"scaled": True},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return random_dataset(tmp_path_factory.mktemp("optim") / "p", 40, vocab=12, longest=30)


def one_step(options: AdamWOptions, gradient: float | Tensor = 0.1, lr: float = 1e-2) -> dict[str, Tensor]:
    """What an update from a known gradient does to each matrix."""
    adapter = Adapter(tiny.adapted(tiny.qwen3()))
    optimizer = AdamW(adapter, options)
    before = adapter.tensors()
    adapter.gradient.copy_(torch.as_tensor(gradient).expand_as(adapter.gradient))
    optimizer.step(lr)
    return {name: value - before[name] for name, value in adapter.tensors().items()}


def test_every_optimizer_of_the_config_is_there() -> None:
    assert set(get_args(get_type_hints(Config)["optim"])) == {"adamw_torch", "adamw_torch_fused", *KINDS}


@pytest.mark.parametrize("name", ALL)
def test_every_optimizer_learns_and_resumes_bit_identical(name: str, data: PreparedDataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": ALL[name], "updates": 20, "save_every": 10, "dropout": 0.1}
    whole = tiny_run(data, tmp_path / "whole", **options)
    whole.run()
    assert losses(whole)[-1] < losses(whole)[0] - 0.3
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole" / "checkpoint-10").rename(tmp_path / "cut" / "checkpoint-10")
    resumed = tiny_run(data, tmp_path / "cut", **options)
    assert resumed.progress.update == 10
    resumed.run()
    assert weights_digest(resumed) == weights_digest(whole)
    for file in ("optimizer.safetensors", "adapter_model.safetensors"):
        ours, theirs = (load_file(tmp_path / run / "checkpoint-20" / file) for run in ("whole", "cut"))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_bitsandbytes_makes_the_update_of_torchs_adamw(kind: str, decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(Adapter(tiny.adapted(tiny.qwen3())).gradient.shape, generator=generator)
    ours = one_step(AdamWOptions(kind=kind, weight_decay=decay), gradient)
    theirs = one_step(AdamWOptions(weight_decay=decay), gradient)
    for name, change in ours.items():
        torch.testing.assert_close(change, theirs[name], rtol=1e-3, atol=1e-6)


def test_eight_bits_hold_a_quarter_of_the_state() -> None:
    adapter = Adapter(tiny.adapted(tiny.qwen3(), rank=32))
    full, small = (AdamW(adapter, AdamWOptions(kind=kind)).nbytes() for kind in ("adamw_torch", "adamw_8bit"))
    assert full == pytest.approx(8 * len(adapter.weights), rel=0.01)
    assert small < 0.3 * full
    state = AdamW(adapter, AdamWOptions(kind="adamw_8bit")).tensors()
    assert {state["adam.0.state1"].dtype, state["adam.0.state2"].dtype} == {torch.uint8}


def test_paging_on_a_cpu_is_said_once_and_in_our_words(caplog: pytest.LogCaptureFixture) -> None:
    adapter = Adapter(tiny.adapted(tiny.qwen3()))
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = AdamW(adapter, AdamWOptions(kind="paged_adamw_32bit", ratios={"b": 4.0}))
        optimizer.step(1e-3)
    assert [r.message for r in caplog.records if "paging" in r.message] == [
        "paged_adamw_32bit: paging moves state between a GPU and the host; on a CPU it simply lies in memory"
    ]


@pytest.mark.parametrize("ratio", [4.0, 16.0])
def test_lora_plus_moves_b_by_that_much_more(ratio: float) -> None:
    plain, plus = one_step(AdamWOptions()), one_step(AdamWOptions(ratios={"b": ratio}))
    for name, change in plus.items():
        expected = ratio if "lora_B" in name else 1.0
        assert float(change.norm() / plain[name].norm()) == pytest.approx(expected, rel=1e-3), name


def test_weight_decay_pulls_matrices_to_zero_but_not_norms() -> None:
    model = add_lora(tiny.qwen3(), LoraSpec(4, 8, also=["norm"]), seed=0)
    adapter = Adapter(model)
    optimizer = AdamW(adapter, AdamWOptions(weight_decay=0.1))
    before = adapter.tensors()
    optimizer.step(1e-2)  # no gradient: what moves is moved by the decay
    for name, value in adapter.tensors().items():
        torch.testing.assert_close(value, before[name] * (1.0 if "norm" in name else 1 - 1e-3))


def test_the_gradient_is_clipped_to_max_grad_norm() -> None:
    def change(limit: float) -> Tensor:
        # With a large epsilon the update is proportional to the gradient.
        options = AdamWOptions(max_grad_norm=limit, eps=1e3)
        return torch.cat([value.reshape(-1) for value in one_step(options, 0.5, lr=1e3).values()])

    adapter = Adapter(tiny.adapted(tiny.qwen3()))
    norm = float(torch.full_like(adapter.gradient, 0.5).norm())
    assert float(change(0.25).norm() / change(0.0).norm()) == pytest.approx(0.25 / norm, rel=1e-2)


@pytest.mark.parametrize("kind", ["adamw_torch", *KINDS])
def test_an_update_that_is_not_finite_changes_nothing(kind: str) -> None:
    adapter = Adapter(tiny.adapted(tiny.qwen3()))
    optimizer = AdamW(adapter, AdamWOptions(kind=kind, weight_decay=0.1, ratios={"b": 2.0}))
    adapter.gradient.fill_(0.1)
    optimizer.step(1e-3)
    before = {**optimizer.tensors(), "weights": adapter.weights.clone()}
    adapter.gradient[5] = torch.nan
    assert not optimizer.step(1e-3).isfinite()
    after = {**optimizer.tensors(), "weights": adapter.weights}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_scaled_loss_trains_as_the_plain_one(data: PreparedDataset) -> None:
    plain, scaled = tiny_run(data, updates=10), tiny_run(data, updates=10, optimizer={"scaled": True})
    plain.run()
    scaled.run()
    # The factor is a power of two: not one bit is lost.
    assert weights_digest(plain) == weights_digest(scaled)


def test_an_overflow_is_left_out_and_halves_the_scale() -> None:
    adapter = Adapter(tiny.adapted(tiny.qwen3()))
    optimizer = AdamW(adapter, AdamWOptions(scaled=True))
    assert optimizer.scale is not None
    before, scale = adapter.weights.clone(), float(optimizer.scale.value)
    adapter.gradient.fill_(torch.inf)
    assert optimizer.step(1e-3) == 0.0
    assert torch.equal(adapter.weights, before)
    assert float(optimizer.scale.value) == scale / 2
    adapter.gradient.fill_(scale / 2 * 0.1)
    assert float(optimizer.step(1e-3)) == pytest.approx(0.1 * len(adapter.gradient) ** 0.5, rel=1e-3)
    assert not torch.equal(adapter.weights, before)


def overflowing(model: torch.nn.Module, during: Callable[[], bool]) -> torch.nn.Module:
    """A model whose loss is finite and whose gradient is not, as fp16's where it has no numbers left."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda gradient: gradient * torch.inf if during() else gradient)
    return model


@pytest.mark.parametrize(("updates", "stops_at"), [(100, HOPELESS), (5, 5)])
def test_a_run_that_overflows_at_every_update_ends_with_what_to_change(
    data: PreparedDataset, updates: int, stops_at: int
) -> None:
    model = overflowing(tiny.adapted(tiny.qwen3(), warm=False), lambda: True)
    run = tiny_run(data, model=model, updates=updates, optimizer={"scaled": True})
    before = weights_digest(run)
    with pytest.raises(TrainingError, match=f"overflowed fp16 in {stops_at} updates in a row, up to") as caught:
        run.run()
    assert run.progress.update == stops_at
    assert weights_digest(run) == before
    assert all(word in str(caught.value.hint) for word in ("bf16: true", "dtype: fp32", "learning_rate"))


def test_overflows_that_end_stop_nothing(data: PreparedDataset) -> None:
    overflows = {*range(1, HOPELESS), *range(HOPELESS + 1, 2 * HOPELESS)}  # one good update between them
    run: Trainer
    model = overflowing(tiny.adapted(tiny.qwen3(), warm=False), lambda: run.progress.update + 1 in overflows)
    run = tiny_run(data, model=model, updates=2 * HOPELESS, optimizer={"scaled": True})
    before = weights_digest(run)
    run.run()
    assert run.progress.update == 2 * HOPELESS
    assert weights_digest(run) != before


def test_overflows_in_a_row_are_counted_through_a_resume(data: PreparedDataset, tmp_path: Path) -> None:
    def start() -> Trainer:
        model = overflowing(tiny.adapted(tiny.qwen3(), warm=False), lambda: True)
        return tiny_run(data, tmp_path, model=model, updates=100, save_every=20, optimizer={"scaled": True})

    with pytest.raises(TrainingError):
        start().run()
    resumed = start()
    assert resumed.progress.update == 20
    with pytest.raises(TrainingError, match=f"in {HOPELESS} updates in a row, up to update {HOPELESS};"):
        resumed.run()


def test_another_optimizers_state_is_refused(data: PreparedDataset, tmp_path: Path) -> None:
    tiny_run(data, tmp_path, updates=2, save_every=2).run()
    with pytest.raises(ArtifactError, match="does not fit this run"):
        tiny_run(data, tmp_path, updates=4, optimizer={"kind": "adamw_8bit"})
