"""LoRA and its variants: each does what its paper says, and what it leaves behind PEFT loads on the base that everybody has."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn

import tiny
from prepared import random_dataset
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.errors import ConfigError
from qlora_fast.merge.delta import read_update
from qlora_fast.merge.verify import compare_logits
from qlora_fast.merge.weights import write_merged
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.fused_lora import FusedLora
from qlora_fast.model.load import Quantization, load_base
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.train import adapter_folder
from tiny_run import CPU, losses, tiny_run, weights_digest

IDS = torch.randint(0, tiny.VOCAB, (2, 11), generator=torch.Generator().manual_seed(0))
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "pissa": {"pissa": 4},
    "exact pissa": {"pissa": -1},
    "pissa and rslora": {"pissa": -1, "rslora": True},
    "a head beside it": {"also": ["lm_head"]},
    "embedding and norms beside it": {"also": ["embed_tokens", "norm", "q_norm"]},
    "two targets": {"target": ["q_proj", "down_proj"]},
    "dropout": {"dropout": 0.2},
    "the embedding adapted": {"target": ["q_proj", "embed_tokens"]},
    "the tied output adapted, a norm beside it": {"target": ["q_proj", "lm_head"], "also": ["norm"]},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return random_dataset(tmp_path_factory.mktemp("variants") / "p", 40, vocab=12, longest=30)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model.eval()(IDS, use_cache=False).logits
    return out


def variant(name: str, **more: Any) -> nn.Module:
    base = tiny.llama() if "head" in name else tiny.qwen3()
    return add_lora(base, LoraSpec(**{"rank": 4, "alpha": 8, **VARIANTS[name], **more}), seed=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_saved_is_what_was_trained(name: str, data: PreparedDataset, tmp_path: Path) -> None:
    run = tiny_run(data, tmp_path, model=variant(name), updates=20, save_every=20, lr=1e-2)
    run.run()
    assert losses(run)[-1] < losses(run)[0] - 0.3
    trained = logits(run.forward.model)
    base = tiny.llama() if "head" in name else tiny.qwen3()
    untrained = logits(base)
    loaded = logits(PeftModel.from_pretrained(base, str(tmp_path / "checkpoint-20")))
    assert (trained - untrained).abs().max() > 0.1
    torch.testing.assert_close(loaded, trained, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_resumed_run_of_every_variant_ends_bit_identical(name: str, data: PreparedDataset, tmp_path: Path) -> None:
    whole = tiny_run(data, tmp_path / "whole", model=variant(name), updates=6, save_every=3)
    whole.run()
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole" / "checkpoint-3").rename(tmp_path / "cut" / "checkpoint-3")
    resumed = tiny_run(data, tmp_path / "cut", model=variant(name), updates=6, save_every=3)
    assert resumed.progress.update == 3
    resumed.run()
    assert weights_digest(resumed) == weights_digest(whole)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_names_are_pefts(name: str) -> None:
    model = variant(name)
    theirs = get_peft_model_state_dict(model, save_embedding_layers=False)
    assert set(Adapter(model).tensors()) == set(theirs)


def test_targets_are_the_layers_that_get_an_adapter() -> None:
    names = Adapter(variant("two targets")).names
    assert {n.split(".lora_")[0].rsplit(".", 1)[-1] for n in names} == {"q_proj", "down_proj"}


def test_rank_and_alpha_are_width_and_scale() -> None:
    for rank, alpha in ((2, 8), (8, 8)):
        model = variant("plain", rank=rank, alpha=alpha)
        layer = model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
        x = torch.randn(3, 32)
        layer.lora_B["default"].weight.data.normal_()
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert a.shape == (rank, 32)
        torch.testing.assert_close(layer(x), layer.base_layer(x) + alpha / rank * (x @ a.T @ b.T), rtol=1e-4, atol=1e-5)


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    layer: Any = variant("rslora", rank=16).get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    assert layer.scaling["default"] == pytest.approx(8 / math.sqrt(16))


def test_dropout_is_on_the_adapters_input_and_only_while_training() -> None:
    model = tiny.adapted(tiny.qwen3(), dropout=0.5)
    assert not torch.equal(*(model.train()(IDS, use_cache=False).logits for _ in range(2)))
    assert torch.equal(logits(model), logits(model))


def test_dora_starts_at_the_base_and_learns_lengths(data: PreparedDataset) -> None:
    model = variant("dora")
    torch.testing.assert_close(logits(model), logits(tiny.qwen3()), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(v, FusedLora) for m in model.modules() for v in getattr(m, "lora_variant", {}).values())
    run = tiny_run(data, model=model.train(), updates=10, lr=1e-2)
    before = run.adapter.tensors()
    run.run()
    moved = [n for n, v in run.adapter.tensors().items() if n.endswith("magnitude_vector") and (v != before[n]).any()]
    assert len(moved) == 14, "two layers of seven targets"


def test_dora_trains_as_pefts_own_layers_do(data: PreparedDataset) -> None:
    def run(packing: str) -> Any:
        made = tiny_run(data, model=variant("dora"), updates=10, lr=1e-2, packing=packing)
        made.run()
        return made

    # Padded rows go through PEFT's and transformers' code alone.
    assert losses(run("exact")) == pytest.approx(losses(run("none")), rel=1e-4)


@pytest.mark.parametrize("name", ["pissa", "exact pissa"])
def test_pissa_starts_at_the_base_but_not_from_nothing(name: str) -> None:
    model = variant(name)
    torch.testing.assert_close(logits(model), logits(tiny.qwen3()), rtol=1e-3, atol=1e-4)
    layer: Any = model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    product = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    original = dict(tiny.qwen3().named_modules())["model.layers.0.mlp.up_proj"].weight
    u, s, v = torch.linalg.svd(original)
    largest = u[:, :4] @ torch.diag(s[:4]) @ v[:4]
    if name == "exact pissa":
        torch.testing.assert_close(product, largest, rtol=1e-3, atol=1e-4)
    assert product.norm() > 0.8 * largest.norm()


def test_an_untrained_pissa_adapter_changes_nothing_on_the_base(tmp_path: Path) -> None:
    model = variant("pissa")
    adapter_folder.write_adapter(tmp_path, model, Adapter(model))
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["init_lora_weights"]) == (8, 16, True)
    loaded = logits(PeftModel.from_pretrained(tiny.qwen3(), str(tmp_path)))
    torch.testing.assert_close(loaded, logits(tiny.qwen3()), rtol=1e-5, atol=1e-5)


def test_a_pissa_run_goes_on_even_where_the_decomposition_comes_out_otherwise(
    data: PreparedDataset, tmp_path: Path
) -> None:
    run = tiny_run(data, model=variant("pissa"), updates=5)
    run.run()
    other = variant("pissa")
    for module in other.modules():
        if hasattr(module, "lora_A"):  # the same space in another basis: the signs of singular vectors are free
            a, b, base = module.lora_A["default"].weight, module.lora_B["default"].weight, module.base_layer.weight
            a.data[0] += 0.01
            base.data -= module.scaling["default"] * b.data[:, :1] @ torch.full_like(a.data[:1], 0.01)
    adapter = Adapter(other)
    adapter.load(run.adapter.tensors(), "there")
    torch.testing.assert_close(logits(other), logits(run.forward.model), rtol=1e-4, atol=1e-4)


def in_bf16(seed: int = 0) -> nn.Module:
    return tiny.qwen3(seed, attention="sdpa").to(torch.bfloat16)


@pytest.mark.parametrize("name", ["pissa", "exact pissa", "pissa and rslora"])
def test_pissa_on_a_16_bit_base_starts_at_the_base_up_to_its_rounding(name: str) -> None:
    """What is left of a weight without its principal part is stored in 16 bits again: that much is lost, and no more."""
    model = add_lora(in_bf16(), LoraSpec(**{"rank": 4, "alpha": 8, **VARIANTS[name]}), seed=0)
    Adapter(model)  # the matrices that the model multiplies with are 16-bit copies from here on
    own = dict(in_bf16().named_modules())
    for path, module in model.named_modules():
        if hasattr(module, "lora_A"):
            a, b = module.lora_A["default"].weight.detach(), module.lora_B["default"].weight.detach()
            kept, original = module.get_base_layer().weight, own[path.removeprefix("base_model.model.")].weight
            assert kept.dtype == a.dtype == torch.bfloat16
            assert (kept - original).norm() > 0.3 * original.norm(), "nothing was taken out"
            together = kept.float() + module.scaling["default"] * b.float() @ a.float()
            assert (together - original.float()).norm() < 2**-8 * original.float().norm(), path
    exact = logits(tiny.qwen3(attention="sdpa"))
    rounding = (logits(in_bf16()).float() - exact).abs().mean()
    assert (logits(model).float() - exact).abs().mean() < 1.5 * rounding, "16 bits cost any model this much"


def test_a_pissa_adapter_of_a_16_bit_run_is_right_on_the_base_and_merged_into_it(
    data: PreparedDataset, tmp_path: Path
) -> None:
    """What was trained, what PEFT makes of the saved adapter and what a merge makes of it agree up to 16 bits."""
    base = tiny.save(in_bf16(), tmp_path / "base")
    model = load_base(str(base), dtype=torch.bfloat16, device=CPU)
    run = tiny_run(
        data,
        tmp_path / "run",
        model=add_lora(model, LoraSpec(4, 8, pissa=-1), seed=0),
        updates=20,
        save_every=20,
        lr=1e-2,
    )
    run.run()
    assert losses(run)[-1] < losses(run)[0] - 0.3
    saved = tmp_path / "run" / "checkpoint-20"
    settings = json.loads((saved / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["init_lora_weights"]) == (8, 16, True)
    before = logits(load_base(str(base), dtype=torch.float32, device=CPU))
    loaded = logits(PeftModel.from_pretrained(load_base(str(base), dtype=torch.float32, device=CPU), str(saved)))
    trained = logits(run.forward.model).float()
    moved = (loaded - before).abs().mean()
    assert moved > 0.5
    assert (loaded - trained).abs().mean() < 0.03 * moved
    for dtype, exact in ((None, False), (torch.float32, True)):
        folder = tmp_path / f"merged-{exact}"
        folder.mkdir()
        write_merged(base, read_update(saved), folder, dtype)
        check = compare_logits(base, saved, folder, IDS.tolist(), exact=exact)
        assert check.passed
        assert not check.lost
        assert check.kl_update > 0.3
        merged = logits(load_base(str(folder), dtype=torch.float32, device=CPU))
        assert (merged - loaded).abs().mean() < (1e-5 if exact else 0.02) * moved


@pytest.mark.parametrize("bits", [4, 8])
def test_pissa_of_quantized_weights_is_refused_with_the_reason(bits: int, tmp_path: Path) -> None:
    folder = tiny.save(tiny.qwen3(), tmp_path)
    base = load_base(str(folder), dtype=torch.float32, device=CPU, quantization=Quantization(bits=bits))
    with pytest.raises(ConfigError, match="in 16 or 32 bits"):
        add_lora(base, LoraSpec(4, 8, pissa=-1), seed=0)


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ({"also": ["embeddings"]}, "`embeddings` is not in this model"),
        ({"also": ["q_proj"]}, "`q_proj` has an adapter already"),
        ({"target": ["lm_head"], "also": ["embed_tokens"]}, "is the weight of embedding and head"),
        ({"target": ["embed_tokens", "q_proj"], "also": ["lm_head"]}, "is the weight of embedding and head"),
        ({"target": ["q_proj"], "also": ["self_attn"]}, "no adapter is left"),
    ],
)
def test_an_additional_target_that_cannot_be_is_refused(spec: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        add_lora(tiny.qwen3(), LoraSpec(4, 8, **spec), seed=0)


def test_weights_that_are_quantized_cannot_be_trained_whole(tmp_path: Path) -> None:
    folder = tiny.save(tiny.qwen3(), tmp_path)
    base = load_base(str(folder), dtype=torch.float32, device=CPU, quantization=Quantization())
    with pytest.raises(ConfigError, match="is quantized"):
        add_lora(base, LoraSpec(4, 8, target=["q_proj"], also=["mlp"]), seed=0)


def test_a_module_beside_the_adapter_is_trained_and_saved_in_full(data: PreparedDataset) -> None:
    run = tiny_run(data, model=variant("a head beside it"), updates=5, lr=1e-2)
    before = run.adapter.tensors()["base_model.model.lm_head.weight"]
    assert before.shape == (tiny.VOCAB, 32)
    run.run()
    assert not torch.equal(before, run.adapter.tensors()["base_model.model.lm_head.weight"])


def test_a_tied_head_stays_tied(data: PreparedDataset) -> None:
    run = tiny_run(data, model=variant("embedding and norms beside it"), updates=5, lr=1e-2)
    run.run()
    inner: Any = run.forward.model.get_base_model()  # type: ignore[operator]
    assert torch.equal(inner.get_input_embeddings().weight, inner.get_output_embeddings().weight)
