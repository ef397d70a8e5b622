"""The longest row runs first: it changes nothing, and where memory ends it says what to change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from prepared import random_dataset
from qlora_fast.config import Config
from qlora_fast.data.batch import Batches, Row, packed_row, padded_row
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.plan import EpochPlan, PlanOptions, epoch_plan
from qlora_fast.errors import TrainingError
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.load import Quantization, load_base
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.train import memory_probe, memory_usage
from qlora_fast.train.forward import Forward
from qlora_fast.train.optimizer import AdamW, AdamWOptions
from tiny_run import CPU, losses, tiny_run, weights_digest


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return random_dataset(tmp_path_factory.mktemp("probe") / "p", 60, vocab=12, longest=80)


@pytest.mark.parametrize("packing", ["exact", "dense", "bucketed", "none"])
def test_the_longest_row_of_all_epochs_is_found(data: PreparedDataset, packing: str) -> None:
    indices = np.arange(5, 60)
    options = PlanOptions(packing, 8, 2, 96, 2, 0)
    lengths, supervised = data.lengths[indices], data.supervised[indices]

    def plan(epoch: int) -> EpochPlan:
        return epoch_plan(lengths, supervised, options, epoch)

    packed = packing in ("exact", "dense")
    found = memory_probe.longest_row(Batches(data, indices, packed), plan, 3)
    sizes = []
    for epoch in range(3):
        made = epoch_plan(lengths, supervised, options, epoch)
        for first, last in zip(made.row_offsets, made.row_offsets[1:], strict=False):
            ids = indices[made.sample_ids[first:last]]
            if len(ids):
                sizes.append((packed_row if packed else padded_row)(data, ids).input_ids.size)
    assert found.input_ids.size == max(sizes)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_behind_the_probe_is_the_same_bit_for_bit(data: PreparedDataset, dropout: float) -> None:
    runs = [tiny_run(data, dropout=dropout, noise=5.0) for _ in range(2)]
    row = packed_row(data, range(10))
    state = torch.get_rng_state()
    memory_probe.probe(Config(), runs[1].forward, runs[1].adapter, data, row)
    assert torch.equal(state, torch.get_rng_state())
    assert not runs[1].adapter.gradient.any()
    for run in runs:
        torch.manual_seed(0)
        run.run()
    assert weights_digest(runs[0]) == weights_digest(runs[1])
    assert losses(runs[0]) == losses(runs[1])


def parts(data: PreparedDataset, make: object = packed_row) -> tuple[Forward, Adapter, Row]:
    model = tiny.adapted(tiny.qwen3())
    return Forward(model, CPU), Adapter(model), make(data, range(10))  # type: ignore[operator]


def out_of_memory(_: Row) -> torch.Tensor:
    # More than any machine has: the allocator's own error, not one made up here.
    return torch.empty(1 << 62, dtype=torch.uint8)


def test_out_of_memory_names_the_three_cheapest_settings(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, adapter, row = parts(data)
    monkeypatch.setattr(Forward, "loss_sum", lambda self, row: out_of_memory(row))
    with pytest.raises(TrainingError, match=rf"longest row has {row.input_ids.size} tokens \(10 samples\)") as caught:
        memory_probe.probe(Config(gradient_checkpointing="false"), forward, adapter, data, row)
    hint = str(caught.value.hint)
    half = -(-row.input_ids.size // 2)
    order = [f"max_tokens_per_row={half}", "gradient_checkpointing=true", "quantization_bit=4"]
    places = [hint.index(word) for word in order]
    assert places == sorted(places)
    assert "cutoff_len" not in hint


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError()],
    ids=["cuda", "host"],
)
def test_every_way_of_running_out_is_known_also_in_the_middle_of_a_run(
    data: PreparedDataset, error: BaseException
) -> None:
    _, _, row = parts(data)
    config = Config(gradient_checkpointing="true", quantization_bit=4, lora_rank=32)
    with pytest.raises(TrainingError, match="out of memory") as caught, memory_probe.explained(config, data, row):
        raise error
    hint = str(caught.value.hint)
    shorter = row.max_seqlen // 2
    cut = (data.lengths > shorter).mean()
    assert f"cutoff_len={shorter} (cuts {cut:.1%} of the samples)" in hint
    assert "lora_rank=16" in hint
    assert "quantization_bit" not in hint


def test_padded_rows_are_told_to_accumulate_instead(data: PreparedDataset) -> None:
    _, _, row = parts(data, padded_row)
    mends = memory_probe.advice(Config(per_device_train_batch_size=4, gradient_accumulation_steps=3), data, row)
    assert mends[0].startswith("per_device_train_batch_size=2 gradient_accumulation_steps=6 ")


def test_what_a_resumed_run_refuses_is_advised_for_a_new_one_only(data: PreparedDataset) -> None:
    _, _, row = parts(data)
    settings = {"packing": "exact", "gradient_checkpointing": "false", "lora_rank": 32}
    advised = memory_probe.advice(Config(**settings, resume_from_checkpoint=True), data, row)
    same = [change for change in advised if not change.endswith(", in a new run")]
    assert [change.split("=")[0] for change in same] == ["max_tokens_per_row", "gradient_checkpointing"]
    assert advised[: len(same)] == same, "they come first"
    assert not any("new run" in change for change in memory_probe.advice(Config(**settings), data, row))


def test_a_dense_update_keeps_about_its_tokens_when_rows_get_shorter(data: PreparedDataset) -> None:
    _, _, row = parts(data)
    advised = memory_probe.advice(Config(packing="dense", gradient_accumulation_steps=3), data, row)
    half = -(-row.input_ids.size // 2)
    assert f"max_tokens_per_row={half} gradient_accumulation_steps=6 (about the same updates)" in advised


def test_other_errors_are_left_as_they_are(data: PreparedDataset) -> None:
    _, _, row = parts(data)
    with pytest.raises(RuntimeError, match="shapes"), memory_probe.explained(Config(), data, row):
        raise RuntimeError("shapes do not fit")


@pytest.mark.parametrize(
    ("setting", "free", "on"),
    [("auto", 1 << 40, False), ("auto", 1 << 20, True), ("auto", None, False), ("true", 1 << 40, True), ("false", 1, False)],
)  # fmt: skip
def test_checkpointing_is_on_only_when_memory_asks_for_it(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch, setting: str, free: int | None, on: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    model = add_lora(tiny.qwen3(), LoraSpec(4, 8), seed=0, checkpointing=setting == "true")
    forward, adapter = Forward(model, CPU), Adapter(model)
    monkeypatch.setattr(memory_usage, "available", lambda device: free)
    with caplog.at_level("INFO"):
        assert (
            memory_probe.probe(
                Config(gradient_checkpointing=setting), forward, adapter, data, packed_row(data, range(9))
            )
            == on
        )  # type: ignore[arg-type]
    assert model.get_base_model().is_gradient_checkpointing == on  # type: ignore[operator]
    assert ("gradient checkpointing: " + ("on" if on else "off") in caplog.text) == (setting == "auto")


def test_checkpointing_comes_on_when_the_row_does_not_fit_after_all(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, adapter, row = parts(data)
    real = Forward.loss_sum

    def tight(self: Forward, row: Row) -> torch.Tensor:
        recomputed = self.model.get_base_model().is_gradient_checkpointing  # type: ignore[operator]
        return real(self, row) if recomputed or len(row.sample_ids) == 1 else out_of_memory(row)

    monkeypatch.setattr(Forward, "loss_sum", tight)
    assert memory_probe.probe(Config(), forward, adapter, data, row)


def test_checkpointing_keeps_far_less_and_a_short_row_tells_what_a_long_one_takes(data: PreparedDataset) -> None:
    kept = []
    for checkpointing in (False, True):
        model = add_lora(tiny.qwen3(), LoraSpec(4, 8), seed=0, checkpointing=checkpointing)
        forward = Forward(model, CPU)
        long_, short = packed_row(data, range(30)), packed_row(data, [int(data.lengths.argmax())])
        kept.append(memory_usage.activations(forward, long_))
        per_token = memory_usage.activations(forward, short) / short.n_tokens
        assert kept[-1] == pytest.approx(per_token * long_.n_tokens, rel=0.25)
    assert kept[1] < 0.3 * kept[0]


@pytest.mark.parametrize(
    ("quantization", "bits"),
    # 4 bits, an 8-bit scale for 64 weights, a 32-bit one for 256 of those; or a 32-bit one for 64; or a row's one.
    [(Quantization("nf4", True), 4 + 8 / 64 + 32 / 64 / 256), (Quantization("fp4", False), 4 + 32 / 64),
     (Quantization(bits=8), 8 + 32 / 256)],
)  # fmt: skip
def test_the_bytes_of_quantized_weights_are_what_the_format_says(
    quantization: Quantization, bits: float, tmp_path: Path
) -> None:
    folder = tiny.save(tiny.qwen3(hidden_size=256, intermediate_size=1024, head_dim=64), tmp_path)
    base = load_base(str(folder), dtype=torch.float32, device=CPU, quantization=quantization)
    quantized = sum(
        m.in_features * m.out_features
        for m in base.modules()
        if type(m).__name__ in ("Linear4bit", "Linear8bitLt")
    )  # fmt: skip
    model = add_lora(base, LoraSpec(8, 16), seed=0)
    adapter = Adapter(model)
    memory = memory_usage.parts(model, adapter, AdamW(adapter, AdamWOptions()))
    assert memory["quantized_weights"] == pytest.approx(quantized * bits / 8, rel=0.03)
    embedding = tiny.VOCAB * 256 * 4
    assert embedding <= memory["weights"] - memory["quantized_weights"] < 1.3 * embedding
    assert memory["adapter"] == pytest.approx(8 * len(adapter), rel=0.02)
    assert memory["optimizer"] == pytest.approx(8 * len(adapter), rel=0.02)
