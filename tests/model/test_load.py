"""Loading, quantizing and adapting a base model."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

import tiny
from prepared import random_dataset
from qlora_fast.chat.session import load_chat_model
from qlora_fast.data.batch import packed_row
from qlora_fast.errors import ArtifactError, ConfigError
from qlora_fast.model.attention import NAME
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.load import Quantization, count, eval_as_trained, load_base, pick_dtype
from qlora_fast.model.lora import LoraSpec, add_lora, lora_targets
from qlora_fast.train import adapter_folder
from qlora_fast.train.forward import Forward
from qlora_fast.train.isolation import check_isolation
from tiny_run import CPU, losses, tiny_run

ALL = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model on disk, wide enough for 4-bit blocks of 64."""
    return tiny.save(tiny.qwen3(hidden_size=64, intermediate_size=128, head_dim=16), tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("rank", [8, 16, 32])
def test_qwen3_0_6b_has_630784_trained_parameters_a_rank(rank: int) -> None:
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config).requires_grad_(False)
    trained, everything = count(add_lora(model, LoraSpec(rank, 2 * rank), seed=0))
    assert trained == 630_784 * rank
    assert everything == pytest.approx(596.0e6 + trained, rel=1e-3)


def test_all_means_every_linear_layer_but_the_head() -> None:
    assert lora_targets(tiny.llama(), ["all"]) == ALL
    assert lora_targets(tiny.llama(), ["q_proj", "lm_head"]) == ["q_proj", "lm_head"]


def test_an_unknown_target_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="query") as caught:
        lora_targets(tiny.qwen3(), ["q_proj", "query"])
    assert "down_proj, embed_tokens, gate_proj" in str(caught.value.hint)


def test_equal_seeds_give_equal_adapters_whatever_was_drawn_before() -> None:
    def fresh(seed: int, before: int) -> torch.Tensor:
        model = tiny.qwen3()
        torch.manual_seed(before)
        state = torch.get_rng_state()
        add_lora(model, LoraSpec(4, 8), seed=seed)
        assert torch.equal(state, torch.get_rng_state()), "the global generator was drawn from"
        return Adapter(model).weights

    assert torch.equal(fresh(1, 2), fresh(1, 3))
    assert not torch.equal(fresh(1, 2), fresh(2, 2))


def test_loading_gives_a_frozen_model_with_our_attention(folder: Path) -> None:
    model = load_base(str(folder), dtype=torch.float32, device=CPU)
    assert model.config._attn_implementation == NAME  # type: ignore[union-attr]
    assert not any(p.requires_grad for p in model.parameters())
    half = load_base(str(folder), dtype=torch.bfloat16, device=CPU)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}, "nothing is cast up"


def test_an_adapter_starts_as_the_identity(folder: Path) -> None:
    base = load_base(str(folder), dtype=torch.float32, device=CPU)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        before = base(ids, use_cache=False).logits
        after = add_lora(base, LoraSpec(4, 8), seed=0)(ids, use_cache=False).logits
    assert torch.equal(before, after)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
def test_four_bits_train_and_the_adapter_loads_again(folder: Path, tmp_path: Path, kind: str, double: bool) -> None:
    quantization = Quantization(kind, double)

    def base() -> nn.Module:
        return load_base(str(folder), dtype=torch.float32, device=CPU, quantization=quantization)

    model = add_lora(base(), LoraSpec(8, 16), seed=0)
    kinds = {type(m).__name__ for n, m in model.named_modules() if n.endswith("q_proj.base_layer")}
    assert kinds == {"Linear4bit"}
    dense = load_base(str(folder), dtype=torch.float32, device=CPU)
    assert count(model)[1] - count(model)[0] == count(dense)[1], "4-bit weights count as what they stand for"
    data = random_dataset(tmp_path / "p", 24, vocab=12, longest=30)
    run = tiny_run(data, tmp_path / "run", model=model, updates=15, lr=1e-2, save_every=15)
    run.run()
    assert losses(run)[-1] < losses(run)[0] - 0.5
    evaluated = tiny_run(data, model=add_lora(base(), LoraSpec(8, 16), seed=0), updates=15, lr=1e-2, eval_every=2)
    evaluated.run()
    assert losses(evaluated) == losses(run), "evaluating in between changed the training"
    # As it was trained: in evaluation mode on a CPU bitsandbytes computes with a layout of less precision.
    again = eval_as_trained(PeftModel.from_pretrained(base(), str(tmp_path / "run" / "checkpoint-15")))
    ids = torch.from_numpy(np.asarray(data.ids(0), np.int64))[None]
    with torch.no_grad():
        assert torch.allclose(
            again(ids, use_cache=False).logits, run.forward.model.eval()(ids, use_cache=False).logits, atol=1e-4
        )


def test_four_bits_have_the_gradient_of_their_dequantized_weights_also_after_scoring(
    folder: Path, tmp_path: Path
) -> None:
    # bitsandbytes, left alone, cuts the gradient of a layer that has once run in evaluation mode on a CPU.
    from bitsandbytes.functional import dequantize_4bit

    four = load_base(str(folder), dtype=torch.float32, device=CPU, quantization=Quantization())
    dense = load_base(str(folder), dtype=torch.float32, device=CPU)
    modules = dict(dense.named_modules())
    for name, module in four.named_modules():
        if type(module).__name__ == "Linear4bit":
            modules[name].weight.data = dequantize_4bit(module.weight.data, module.weight.quant_state)
    data = random_dataset(tmp_path / "p", 4, vocab=12, longest=30)
    row, gradients = packed_row(data, range(4)), []
    for base in (four, dense):
        model = tiny.adapted(base)
        forward, adapter = Forward(model, CPU), Adapter(model)
        check_isolation(forward, data, row)
        forward.loss_sum(row).backward()
        gradients.append(adapter.gradient)
    assert torch.linalg.vector_norm(gradients[0] - gradients[1]) < 1e-5 * torch.linalg.vector_norm(gradients[1])


def test_an_adapter_on_a_half_precision_base_is_stored_in_fp32(folder: Path, tmp_path: Path) -> None:
    model = add_lora(load_base(str(folder), dtype=torch.bfloat16, device=CPU), LoraSpec(4, 8), seed=0)
    adapter = Adapter(model)
    adapter_folder.write_adapter(tmp_path, model, adapter, base="the-base")
    assert {t.dtype for t in adapter.tensors().values()} == {torch.float32}
    loaded = PeftModel.from_pretrained(load_base(str(folder), dtype=torch.bfloat16, device=CPU), str(tmp_path))
    assert loaded.peft_config["default"].base_model_name_or_path == "the-base"


def test_a_folder_without_a_model_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot load the model in `"):
        load_base(str(tmp_path), dtype=torch.float32, device=CPU)


def test_a_hub_id_without_network_is_an_error_with_a_hint() -> None:
    with pytest.raises(
        ArtifactError, match="not a local folder, not in the Hub's cache, and the Hub is not asked"
    ) as caught:
        load_base("nobody/no-such-model", dtype=torch.float32, device=CPU)
    assert "local folder" in str(caught.value.hint)


def test_torn_weights_are_an_error_and_not_a_crash(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[: len(content) // 2] if file.suffix == ".safetensors" else content)
    with pytest.raises(ArtifactError, match="cannot load the model in"):
        load_base(str(tmp_path), dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("lacks", ["lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_weights_that_the_files_lack_are_not_made_up(folder: Path, tmp_path: Path, lacks: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if n != lacks}, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if lacks == "lm_head.weight":
        config["tie_word_embeddings"] = False
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for load in (load_base, partial(load_chat_model, adapters={})):
        with pytest.raises(ArtifactError, match=f"have no `{lacks}`") as caught:
            load(str(tmp_path), dtype=torch.float32, device=CPU)
    assert ("tie_word_embeddings" in str(caught.value.hint)) is (lacks == "lm_head.weight")


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors"])
def test_a_base_that_another_library_quantized_is_an_error_that_names_it(tmp_path: Path, method: str) -> None:
    tiny.save(tiny.llama(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="cannot load") as error:
        load_base(str(tmp_path), dtype=torch.float32, device=CPU)
    assert f"quantized by `{method}`" in str(error.value.hint)


def test_dtypes() -> None:
    assert pick_dtype("auto", CPU) == torch.float32
    assert pick_dtype("bf16", CPU) == torch.bfloat16
    assert pick_dtype("fp32", torch.device("cuda")) == torch.float32


def test_the_libraries_say_nothing_while_a_model_is_loaded_in_four_bits(folder: Path) -> None:
    code = (
        "import torch; from qlora_fast.model.load import *; from qlora_fast.model.lora import *; "
        f"m = load_base({str(folder)!r}, dtype=torch.float32, device=torch.device('cpu'), quantization=Quantization()); "
        "add_lora(m, LoraSpec(4, 8), seed=0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr == ""
