"""Memory estimated from a model's shape, against what real models hold and keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from cli_run import DATA, ROOT, cli
from prepared import write_prepared
from qlora_fast.config import Config
from qlora_fast.data.batch import Row, packed_row
from qlora_fast.data.dataset import open_prepared
from qlora_fast.errors import ConfigError
from qlora_fast.model import memory_estimate
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.load import Quantization, load_base
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.model.memory_estimate import Method, Shape, estimate, full_fine_tuning
from qlora_fast.model.shapes import SHAPES, guide_table, shape_of
from qlora_fast.train import loss, memory_usage
from qlora_fast.train.forward import Forward
from qlora_fast.train.optimizer import AdamW, AdamWOptions

CPU = torch.device("cpu")
WIDE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3, "head_dim": 32}
"""Wide enough that the constants of a quantized matrix are not all there is of it."""


@pytest.mark.parametrize(
    ("model", "parameters", "body"),
    [
        ("qwen3-0.6b", 596_049_920, 440_401_920),
        ("qwen2.5-7b", 7_615_616_512, 6_525_288_448),
        ("qwen2.5-14b", 14_770_033_664, 13_212_057_600),
        ("qwen2.5-72b", 72_706_203_648, 70_212_648_960),
        ("qwen3-8b", 8_190_735_360, 6_945_767_424),
        ("qwen3-14b", 14_768_307_200, 13_212_057_600),
        ("qwen3-32b", 32_762_123_264, 31_205_621_760),
        ("qwen2.5-32b", 32_763_876_352, 31_205_621_760),
        ("llama-3.1-70b", 70_553_706_496, 68_451_041_280),
        ("llama-3.1-8b", 8_030_261_248, 6_979_321_856),
        ("smollm2-135m-instruct", 134_515_008, 106_168_320),
    ],
)
def test_the_shapes_have_the_published_number_of_parameters(model: str, parameters: int, body: int) -> None:
    assert SHAPES[model].parameters == parameters
    assert SHAPES[model].body == body


def test_the_guides_adapter_size() -> None:
    for rank in (8, 16, 32):
        trained = estimate(SHAPES["qwen3-0.6b"], Method(rank=rank)).optimizer / 8
        assert trained == 630_784 * rank


@pytest.mark.parametrize("kind", tiny.MODELS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_adapter_and_optimizer_are_those_of_a_real_model(kind: str, tied: bool, dtype: torch.dtype) -> None:
    model = tiny.adapted(tiny.MODELS[kind](tie_word_embeddings=tied, **WIDE).to(dtype), rank=4)
    adapter = Adapter(model)
    parts = memory_usage.parts(model, adapter, AdamW(adapter, AdamWOptions()))
    told = estimate(Shape.of(model.config.to_dict()), Method(rank=4, width=dtype.itemsize))  # type: ignore[union-attr]
    assert told.weights == pytest.approx(parts["weights"], rel=0.002)
    assert told.adapter == parts["adapter"]
    assert told.optimizer == pytest.approx(parts["optimizer"], rel=0.002)


@pytest.mark.parametrize("kind", tiny.MODELS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("bits", "double"), [(4, True), (4, False)])
def test_quantized_weights_are_those_of_bitsandbytes(
    tmp_path: Path, kind: str, tied: bool, bits: int, double: bool
) -> None:
    folder = tiny.save(tiny.MODELS[kind](tie_word_embeddings=tied, **WIDE), tmp_path)
    base = load_base(
        str(folder), dtype=torch.bfloat16, device=CPU, quantization=Quantization(kind="nf4", double=double)
    )
    shape = shape_of(str(folder))
    assert shape is not None
    model = add_lora(base, LoraSpec(4, 8), seed=0)
    adapter = Adapter(model)
    parts = memory_usage.parts(model, adapter, AdamW(adapter, AdamWOptions()))
    told = estimate(shape, Method(rank=4, bits=bits, double=double))
    assert told.weights == pytest.approx(parts["weights"], rel=0.01)
    quantized = told.weights - told.embedding - 2 * shape.small - 4 * shape.head_dim
    assert quantized == pytest.approx(parts["quantized_weights"], rel=0.001)
    assert told.constants > 0


def row(folder: Path, samples: int) -> Row:
    each = 128 // samples
    ids = [[(i * 7) % 90 + 1 for i in range(each)]] * samples
    return packed_row(open_prepared(write_prepared(folder, [(s, [(each // 2, each)]) for s in ids])), range(samples))


@pytest.mark.parametrize("kind", tiny.MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("samples", "dropout", "bound"), [(1, 0.0, 0.001), (4, 0.0, 0.001), (4, 0.1, 0.05)])
def test_activations_are_what_autograd_keeps(
    tmp_path: Path, kind: str, dtype: torch.dtype, samples: int, dropout: float, bound: float
) -> None:
    """The bound that docs/time_and_memory.md states: exact without dropout, 5 % with it, on three layers."""
    model = tiny.adapted(tiny.MODELS[kind](**WIDE).to(dtype), rank=4, dropout=dropout)
    Adapter(model)
    packed = row(tmp_path / "p", samples)
    width = dtype.itemsize
    method = Method(
        tokens=128, supervised=len(packed.targets), rank=4, width=width, dropout=dropout > 0, mask_width=width
    )
    told = memory_estimate.activations(Shape.of(model.config.to_dict()), method)  # type: ignore[union-attr]
    kept = memory_usage.activations(Forward(model, CPU), packed)
    assert told == pytest.approx(kept, rel=bound)


@pytest.mark.parametrize("kind", tiny.MODELS)
def test_checkpointing_keeps_the_inputs_of_the_layers(tmp_path: Path, kind: str) -> None:
    base = tiny.MODELS[kind](
        **WIDE,
    )
    model = add_lora(base, LoraSpec(4, 8), seed=0, checkpointing=True)
    Adapter(model)
    packed = row(tmp_path / "p", 4)
    shape = Shape.of(base.config.to_dict())  # type: ignore[union-attr]
    method = Method(tokens=128, supervised=len(packed.targets), rank=4, width=4, checkpointing=True)
    kept = memory_usage.activations(Forward(model, CPU), packed)
    # The forward pass keeps the inputs; the one layer that is alive again in the backward pass is on top.
    assert (
        kept
        < memory_estimate.activations(shape, method)
        < kept + 1.1 * memory_estimate.activations(shape, Method(tokens=128, supervised=0, rank=4, width=4)) / 3
    )


def test_the_chunk_of_logits_is_the_losss() -> None:
    assert memory_estimate.CHUNK_LOGITS == loss.CHUNK_LOGITS
    assert memory_estimate.CHUNK_BYTES == loss.CHUNK_BYTES
    told = estimate(SHAPES["qwen3-0.6b"], Method(tokens=2048, width=4))
    assert told.logits == loss.chunk_of(151_936) * 151_936 * 4
    assert estimate(SHAPES["qwen3-0.6b"], Method(tokens=10, width=4)).logits == 10 * 151_936 * 4


def test_the_guides_table_with_what_it_left_out() -> None:
    rows = {(row.size, row.method): row for row in guide_table()}
    assert [row.guide for row in guide_table()] == [2.4, 1.2, 0.4, 28, 14, 4, 56, 28, 8, 288, 144, 36]
    # facts: 0.6B in 4 bits is about 0.54 GB, because the embedding stays in 16 bits.
    assert rows["0.6B", "QLoRA"].weights / 1e9 == pytest.approx(0.54, abs=0.01)
    assert rows["0.6B", "LoRA"].weights / 1e9 == pytest.approx(1.19, abs=0.01)
    assert rows["7B", "QLoRA"].weights / 1e9 == pytest.approx(5.55, abs=0.01)
    assert rows["72B", "LoRA"].weights / 1e9 == pytest.approx(145.4, abs=0.1)
    for row in guide_table():
        assert row.total > row.weights
        assert row.total / 1e9 > row.guide, "the guide's figure is never enough"
    assert "embedding and head stay 16-bit 2.18" in rows["7B", "QLoRA"].left_out
    assert full_fine_tuning(SHAPES["qwen3-0.6b"]) == 16 * 596_049_920


def test_other_layers_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="`mamba2`"):
        Shape.of({"model_type": "mamba2"})
    with pytest.raises(ConfigError, match="`c_attn`"):
        estimate(SHAPES["qwen3-0.6b"], Method(targets=("c_attn",)))


@pytest.mark.parametrize(
    ("settings", "less", "more"),
    [
        ({"quantization_bit": 4}, "linear", "constants"),
        ({"lora_rank": 64}, None, "adapter"),
        ({"optim": "adamw_8bit"}, "optimizer", None),
        ({"gradient_checkpointing": "true"}, "activations", None),
        ({"lora_dropout": 0.1}, None, "activations"),
        ({"use_dora": True}, None, "adapter"),
        ({"lora_target": ["q_proj"]}, "adapter", None),
        ({"dtype": "fp32"}, None, "embedding"),
    ],
)
def test_settings_move_the_part_that_they_are_about(
    settings: dict[str, Any], less: str | None, more: str | None
) -> None:
    shape = SHAPES["qwen3-0.6b"]
    plain = estimate(shape, Method.of(Config(), 2048))
    changed = estimate(shape, Method.of(Config(**settings), 2048))
    if less:
        assert getattr(changed, less) < getattr(plain, less)
    if more:
        assert getattr(changed, more) > getattr(plain, more)


def test_the_commands(model_dir: Path, tmp_path: Path) -> None:
    table = cli("memory", cwd=tmp_path)
    assert table.status == 0, table.err
    assert len(table.out.splitlines()) == 13
    assert table.out.count("QLoRA") == 4
    report = cli("memory", ROOT / "configs/qwen3-8b-qlora.yaml", "--json", "--tokens", "1024", cwd=tmp_path).json
    assert set(report["bytes"]) == {"16 bits", "16 bits, checkpointing", "4 bits", "4 bits, checkpointing"}
    assert report["parameters"] == 8_190_735_360
    (tmp_path / "x.yaml").write_text(
        f"model_name_or_path: {model_dir}\ndataset: {DATA / 'demo' / 'alpaca_en.json'}\ncutoff_len: 512\n"
    )
    planned = cli("plan", "x.yaml", "--json", cwd=tmp_path).json["memory"]
    assert 0 < planned["longest_row"] <= 1024, "on a CPU"
    assert planned["total"] > planned["weights"] > 0
    assert "GB on each GPU: weights" in cli("plan", "x.yaml", cwd=tmp_path).out
