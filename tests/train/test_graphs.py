"""Rows that are filled up, captured and replayed train what rows train that are run one operation after another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tiny
from kernels_on_cpu import interpreted
from prepared import random_dataset, write_prepared
from qlora_fast.config import Config
from qlora_fast.data.batch import Row, packed_row
from qlora_fast.data.dataset import PreparedDataset, open_prepared
from qlora_fast.data.plan import PlanOptions, epoch_plan
from qlora_fast.data.rung import Rung, fitted, ladder, row_sizes, size_of
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.fused_lora import fuse
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.model.patch import patch
from qlora_fast.train import graphs
from qlora_fast.train.forward import Forward
from qlora_fast.train.graphs import Graphs, reason_against
from qlora_fast.train.trainer import Trainer
from tiny_run import CPU, losses, tiny_run

Model = Callable[[], nn.Module]
MODELS: dict[str, Model] = {
    "qwen3": tiny.qwen3,
    "qwen3, own head, one group": lambda: tiny.qwen3(tie_word_embeddings=False, num_key_value_heads=1),
    "llama": tiny.llama,
    "llama, tied": lambda: tiny.llama(tie_word_embeddings=True),
}


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Row:
    """Samples of one token, of none that is supervised, and ordinary ones."""
    rng = np.random.default_rng(1)
    samples = [(rng.integers(3, tiny.VOCAB, n).tolist(), spans) for n, spans in (
        (9, [(3, 9)]), (1, []), (5, []), (64, [(2, 5), (9, 60)]), (2, [(1, 2)]),
    )]  # fmt: skip
    return packed_row(open_prepared(write_prepared(tmp_path_factory.mktemp("graphs") / "p", samples)), range(5))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return random_dataset(tmp_path_factory.mktemp("graphs") / "d", 60, vocab=12, longest=40)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def outcome(model: nn.Module, adapter: Adapter, row: Row) -> tuple[Tensor, Tensor]:
    adapter.discard()
    loss = Forward(model, CPU).loss_sum(row)
    (loss / 7).backward()
    adapter.collect()
    return loss.detach(), adapter.gradient.clone()


def check_filled(model: nn.Module, row: Row, bound: float, longest: int = 70) -> None:
    """Filled up by little and by much: nothing is learned from what fills it."""
    adapter = Adapter(model)
    loss, gradient = outcome(model, adapter, row)
    assert gradient.norm() > 0
    size = size_of(row)
    near = ladder([size], longest)[128]
    for rung in (near, Rung(3 * size.tokens, 12, 2 * size.supervised, longest)):
        filled, own = outcome(model, adapter, fitted(row, rung))
        assert abs(float(filled - loss)) <= bound * float(loss)
        assert relative(own, gradient) <= bound


CASES = [(name, code, ckpt) for name in MODELS for code in ("PEFT", "groups") for ckpt in (False, True)]
INTERPRETED = [pytest.param(name, "kernels", False, marks=pytest.mark.slow) for name in ("qwen3", "llama")]


@pytest.mark.parametrize(("name", "code", "checkpointing"), [*CASES, *INTERPRETED])
def test_a_filled_row_has_the_loss_and_the_gradient_of_the_row(
    name: str, code: str, checkpointing: bool, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp32: 1e-6 relative, for a product over more tokens may add them up in another order."""
    model = add_lora(MODELS[name](), LoraSpec(4, 8), seed=0, checkpointing=checkpointing, kernels="off")
    _warm(model)
    if code == "kernels":
        interpreted(monkeypatch)
    if code != "PEFT":
        fuse(model, kernels=code == "kernels")
        model.speed_up = patch(model, kernels=code == "kernels")  # type: ignore[assignment]
    check_filled(model, row, 1e-6)


@pytest.mark.parametrize(
    ("spec", "dtype", "bound"),
    [
        ({"dora": True}, torch.float32, 1e-6),
        ({"also": ("embed_tokens",)}, torch.float32, 1e-6),
        ({"also": ("lm_head",)}, torch.float32, 1e-6),
        ({}, torch.bfloat16, 1e-2),
        ({}, torch.float16, 2e-3),
    ],
    ids=["dora", "trained embedding", "trained head", "bf16", "fp16"],
)
def test_variants_of_the_adapter_and_numbers(spec: dict[str, Any], dtype: torch.dtype, bound: float, row: Row) -> None:
    model = add_lora(tiny.llama().to(dtype), LoraSpec(4, 8, **spec), seed=0)
    _warm(model)
    check_filled(model, row, bound)


def test_a_model_whose_logits_are_more_than_a_product(row: Row) -> None:
    model = tiny.adapted(tiny.llama())
    forward = Forward(model, CPU)
    assert forward.plain_head
    forward.plain_head = False
    rung = ladder([size_of(row)], 70)[128]
    assert float(forward.loss_sum(fitted(row, rung)).detach()) == pytest.approx(
        float(forward.loss_sum(row).detach()), rel=1e-6
    )


def _warm(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=generator)


class Tape:
    """Replays by running the work again. Nothing new may come from the host then."""

    def __init__(
        self, forward: Forward, *, wrong: float = 1.0, refuses: str = "", ms: tuple[float, float] = (1, 2)
    ) -> None:
        self.forward, self.wrong, self.refuses, self.ms = forward, wrong, refuses, ms
        self.captured = self.replayed = self.forgotten = 0
        self.adapter: Adapter | None = None

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            put, self.forward.put = self.forward.put, _nothing_new  # type: ignore[method-assign]
            placed, self.forward.on_device = self.forward.on_device, _nothing_new  # type: ignore[method-assign]
            work()
            self.forward.put, self.forward.on_device = put, placed  # type: ignore[method-assign]
            if self.adapter is not None:
                self.adapter.gradient.mul_(self.wrong)

        return replay

    def milliseconds(self, work: Callable[[], object]) -> float:
        replaying = getattr(work, "__name__", "") == "replay"
        work()
        return self.ms[0] if replaying else self.ms[1]

    def forget(self) -> None:
        self.forgotten += 1


def _nothing_new(*_: object) -> Any:
    raise AssertionError("a replay reads its buffers only")


def both(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch, optimizer: dict[str, Any] | None = None, **tape: Any
) -> tuple[Trainer, Trainer, Graphs, Tape]:
    """The same run twice: eagerly, and with a tape."""
    eager = tiny_run(data, updates=12, optimizer=optimizer)
    eager.run()
    run = tiny_run(data, updates=12, optimizer=optimizer)
    plan = epoch_plan(data.lengths, data.supervised, PlanOptions("exact", 8, 2, 96, 1, 0))
    rungs = ladder(row_sizes(plan, data.lengths, data.supervised), int(data.lengths.max()))
    recorder = Tape(run.forward, **tape)
    recorder.adapter = run.adapter
    row_pass = Graphs(run.forward, run.adapter, rungs, recorder)
    monkeypatch.setattr(run, "_run_row", row_pass)
    run.run()
    assert losses(run) == pytest.approx(losses(eager), rel=1e-5)
    norms = [[e["grad_norm"] for e in each.progress.log_history if "grad_norm" in e] for each in (run, eager)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert relative(run.adapter.weights, eager.adapter.weights) < 1e-5
    return run, eager, row_pass, recorder


@pytest.mark.parametrize("optimizer", [None, {"scaled": True}], ids=["", "with a loss scale"])
def test_a_run_by_replays_is_the_run(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch, optimizer: dict[str, Any] | None
) -> None:
    _, _, row_pass, tape = both(data, monkeypatch, optimizer)
    assert tape.captured == len(row_pass.ladder) == 1
    assert tape.replayed > 20
    assert row_pass.described() == {"used": True, "rungs": [128], "captured": [128]}


@pytest.mark.parametrize(
    ("tape", "reason"),
    [
        (
            {"refuses": "operation not permitted when stream is capturing"},
            "cannot be captured (operation not permitted",
        ),
        ({"wrong": 1.1}, "a replayed gradient differs from the eager one by"),
        ({"wrong": float("nan")}, "a replayed gradient differs from the eager one by nan"),
        ({"ms": (3, 2)}, "a replay takes 3.0 ms"),
    ],
    ids=["refused", "wrong", "not a number", "slower"],
)
def test_what_rules_it_out_is_named_once_and_the_run_is_the_eager_one(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch, tape: dict[str, Any], reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with caplog.at_level("INFO"):
        _, _, row_pass, recorder = both(data, monkeypatch, **tape)
    found = row_pass.described()
    assert found["used"] is False
    assert reason in str(found["reason"])
    assert caplog.text.count("cuda_graphs: off from here on") == 1
    assert recorder.replayed <= 2
    assert recorder.forgotten == 1


@pytest.mark.parametrize("first", [False, True])
def test_a_row_that_does_not_fit_beside_the_graphs_gives_them_up_and_not_the_run(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """Of two rungs the second one's first row finds no memory, until the first one's graph is forgotten."""
    run = tiny_run(data, updates=1)
    rungs = {tokens: Rung(tokens, 20, tokens, 40) for tokens in (128, 256)}
    tape = Tape(run.forward, ms=(1, 1000))
    row_pass = Graphs(run.forward, run.adapter, rungs, tape)
    small, large = packed_row(data, [0]), packed_row(data, range(8))
    assert small.input_ids.size <= 128 < large.input_ids.size <= 256
    for _ in range(0 if first else 2):
        row_pass(small, 7.0)
    real = graphs.Eager.of

    def tight(self: Any, row: Any, divisor: Any) -> Tensor:
        if row.input_ids.numel() > 128 and not tape.forgotten:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(self, row, divisor)

    monkeypatch.setattr(graphs.Eager, "of", tight)
    before = run.adapter.gradient.clone()
    if first:  # nothing is captured: there is nothing to give up
        with pytest.raises(RuntimeError, match="allocate"):
            row_pass(large, 7.0)
        return
    row_pass(large, 7.0)
    assert tape.forgotten == 1
    assert "does not fit into memory beside the graphs" in str(row_pass.described()["reason"])
    added = run.adapter.gradient - before
    run.adapter.discard()
    real(graphs.Eager(run.forward, run.adapter), run.forward.on_device(fitted(large, rungs[256])), torch.tensor(7.0))
    assert relative(added, run.adapter.gradient) < 1e-5


def test_an_overflow_of_half_precision_rules_nothing_out(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(data, updates=1)
    tape = Tape(run.forward)
    row_pass = Graphs(run.forward, run.adapter, {128: Rung(128, 12, 128, 40)}, tape)
    row = packed_row(data, range(3))
    row_pass(row, 7.0)
    with monkeypatch.context() as overflow:
        tape.adapter, tape.wrong = run.adapter, float("nan")
        real = graphs.Eager.of

        def infinite(self: Any, row: Any, divisor: Any) -> Tensor:
            loss = real(self, row, divisor)
            run.adapter.gradient.fill_(float("inf"))
            return loss

        overflow.setattr(graphs.Eager, "of", infinite)
        row_pass(row, 7.0)
    assert row_pass.described()["captured"] == []
    tape.wrong = 1.0
    run.adapter.discard()
    row_pass(row, 7.0)
    assert row_pass.described() == {"used": True, "rungs": [128], "captured": [128]}


def test_a_row_that_no_rung_holds_is_run_eagerly(data: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs.Graphs, "_prepared", _nothing_new)
    run = tiny_run(data, updates=2)
    row_pass = Graphs(run.forward, run.adapter, {128: Rung(128, 1, 64, 40)}, Tape(run.forward))
    monkeypatch.setattr(run, "_run_row", row_pass)
    run.run()
    assert losses(run) == losses(_ran(tiny_run(data, updates=2)))


def _ran(run: Trainer) -> Trainer:
    run.run()
    return run


class OnGpu:
    """A forward pass of a model on a GPU, as far as the choice looks at it."""

    def __init__(self, *, whole_rows: bool = True, stream: object = None) -> None:
        self.device, self.stream = torch.device("cuda", 0), stream
        self.attends_whole_rows = lambda: whole_rows


@pytest.mark.parametrize(
    ("settings", "forward", "recomputed", "reason"),
    [
        ({}, OnGpu(), False, None),
        ({"cuda_graphs": "off"}, OnGpu(), False, "cuda_graphs: off"),
        ({"packing": "none"}, OnGpu(), False, "padded"),
        ({"lora_dropout": 0.1}, OnGpu(), False, "random numbers"),
        ({"neftune_noise_alpha": 5}, OnGpu(), False, "random numbers"),
        ({}, OnGpu(), True, "recomputed"),
        ({"quantization_bit": 4}, OnGpu(), False, None),
        ({"quantization_bit": 8}, OnGpu(), False, "8-bit"),
        ({}, OnGpu(stream=object()), False, "layer by layer"),
        ({}, OnGpu(whole_rows=False), False, "one by one"),
    ],
)
def test_why_not(settings: dict[str, Any], forward: Any, recomputed: bool, reason: str | None) -> None:
    found = reason_against(Config(**settings), forward, recomputed=recomputed)
    assert (found is None) == (reason is None)
    assert (reason or "") in (found or "")


def test_on_a_cpu_run_json_says_why_there_are_none(model_dir: Path, tmp_path: Path) -> None:
    import json

    from parameter_run import maker

    made = maker(model_dir, tmp_path)(max_steps=1)
    found = json.loads((made.folder / "run.json").read_text())["cuda_graphs"]
    assert found == {"used": False, "reason": "the device is a CPU"}
