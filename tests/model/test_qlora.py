"""QLoRA for real, on a CPU: few bits, the right gradient, no detour through fp32, and an adapter for everybody's base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import tiny
from cli_run import cli
from paths import ROOT
from prepared import random_dataset
from qlora_fast.data.batch import packed_row
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.fused_lora import FusedLora
from qlora_fast.model.load import Quantization, load_base
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.train import memory_usage
from qlora_fast.train.forward import Forward
from qlora_fast.train.isolation import check_isolation
from tiny_folder import config_file
from tiny_run import CPU, losses, tiny_run, weights_digest

KINDS = {
    "nf4, double": Quantization("nf4", True),
    "nf4": Quantization("nf4", False),
    "fp4, double": Quantization("fp4", True),
    "8 bits": Quantization(bits=8),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.qwen3(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return random_dataset(tmp_path_factory.mktemp("qlora") / "p", 40, vocab=12, longest=40)


def base(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    return load_base(str(folder), dtype=dtype, device=CPU, quantization=KINDS[kind])


def layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((n, m) for n, m in model.named_modules() if type(m).__module__.startswith("bitsandbytes"))


def dequantized(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    if type(layer).__name__ == "Linear4bit":
        plain: Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return plain
    scales = layer.state.SCB if layer.state.SCB is not None else layer.weight.SCB
    return layer.weight.data.float() * scales[:, None] / 127.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_dequantized_weights_also_after_scoring(
    folder: Path, data: PreparedDataset, kind: str
) -> None:
    few = base(folder, kind)
    dense = load_base(str(folder), dtype=torch.float32, device=CPU)
    modules = dict(dense.named_modules())
    for name, layer in layers(few):
        modules[name].weight.data = dequantized(layer)
    row, results = packed_row(data, range(6)), []
    for model in (tiny.adapted(few), tiny.adapted(dense)):
        forward, adapter = Forward(model, CPU), Adapter(model)
        check_isolation(forward, data, row)
        with forward.scoring():
            scored = forward.token_losses(row)[0]
        loss = forward.loss_sum(row)
        loss.backward()  # type: ignore[no-untyped-call]
        assert float(loss.detach()) == pytest.approx(float(scored.sum()), rel=1e-5), "it scores what it trains"
        results.append((loss.detach(), adapter.gradient))
    (loss, gradient), (their_loss, their_gradient) = results
    assert float(loss) == pytest.approx(float(their_loss), rel=1e-5)
    assert torch.linalg.vector_norm(gradient - their_gradient) < 1e-5 * torch.linalg.vector_norm(their_gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls_and_a_resumed_run_ends_bit_identical(
    folder: Path, data: PreparedDataset, tmp_path: Path, kind: str
) -> None:
    def run(where: Path) -> Any:
        model = add_lora(base(folder, kind), LoraSpec(8, 16, dropout=0.1), seed=0)
        return tiny_run(data, where, model=model, updates=16, lr=1e-2, save_every=8, eval_every=4)

    whole = run(tmp_path / "whole")
    whole.run()
    assert losses(whole)[-1] < losses(whole)[0] - 0.5
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole" / "checkpoint-8").rename(tmp_path / "cut" / "checkpoint-8")
    resumed = run(tmp_path / "cut")
    assert resumed.progress.update == 8
    resumed.run()
    assert weights_digest(resumed) == weights_digest(whole)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        again = PeftModel.from_pretrained(base(folder, kind), str(tmp_path / "cut" / "checkpoint-16"))
        with Forward(again, CPU).scoring(), resumed.forward.scoring():
            ours, theirs = (m(ids, use_cache=False).logits for m in (resumed.forward.model, again))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["nf4, double", "8 bits"])
def test_the_fused_product_is_pefts_there_too(folder: Path, kind: str) -> None:
    model = tiny.adapted(base(folder, kind))
    variants = [v for m in model.modules() if (v := getattr(m, "lora_variant", None)) is not None]
    assert all(isinstance(v["default"], FusedLora) for v in variants)
    ids = torch.arange(9)[None]

    def outcome() -> tuple[Tensor, Tensor]:
        logits = model(ids, use_cache=False).logits
        gradients = torch.autograd.grad(logits.square().mean(), [p for p in model.parameters() if p.requires_grad])
        return logits.detach(), torch.cat([g.reshape(-1) for g in gradients])

    ours = outcome()
    for variant in variants:
        variant.clear()
    for a, b in zip(ours, outcome(), strict=True):
        assert torch.linalg.vector_norm(a - b) < 1e-5 * torch.linalg.vector_norm(b)


@pytest.mark.parametrize("kind", KINDS)
def test_dora_trains_on_few_bits_and_is_loaded_again(
    folder: Path, data: PreparedDataset, tmp_path: Path, kind: str
) -> None:
    """PEFT's DoRA takes the weights apart in each pass: on a CPU those of 8 bits lost their scales by that."""
    model = add_lora(base(folder, kind), LoraSpec(4, 8, dora=True), seed=0)
    run = tiny_run(data, tmp_path, model=model, updates=4, lr=1e-2, save_every=4)
    run.run()
    ids = torch.arange(9)[None]
    again = PeftModel.from_pretrained(base(folder, kind), str(tmp_path / "checkpoint-4"))
    with torch.no_grad(), Forward(again, CPU).scoring(), run.forward.scoring():
        for _ in range(2):
            ours, theirs = (m(ids, use_cache=False).logits for m in (model, again))
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def activations(model: nn.Module, row: Any) -> set[torch.dtype]:
    """The dtypes of what goes into and comes out of every layer."""
    seen: set[torch.dtype] = set()

    def watch(module: nn.Module, args: Any, out: Any) -> None:
        seen.update(t.dtype for t in (*args, out) if isinstance(t, Tensor) and t.is_floating_point())

    hooks = [m.register_forward_hook(watch) for m in model.modules() if not isinstance(m, nn.ModuleList)]
    Forward(model, CPU).loss_sum(row).backward()  # type: ignore[no-untyped-call]
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("kind", ["nf4, double", "8 bits"])
def test_nothing_is_cast_up_to_fp32(folder: Path, data: PreparedDataset, kind: str) -> None:
    model = add_lora(base(folder, kind, torch.bfloat16), LoraSpec(8, 16), seed=0)
    adapter = Adapter(model)
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16, torch.uint8 if "nf4" in kind else torch.int8}
    assert {p.dtype for p in adapter.parameters} == {torch.bfloat16}
    assert adapter.weights.dtype == adapter.gradient.dtype == torch.float32
    row = packed_row(data, range(6))
    assert activations(model, row) == {torch.bfloat16}
    # What is usually called first would have: this is what the test would see.
    taxed = prepare_model_for_kbit_training(base(folder, kind, torch.bfloat16), use_gradient_checkpointing=False)
    assert torch.float32 in {p.dtype for p in taxed.parameters()}


def test_a_row_keeps_no_more_for_the_backward_pass_than_in_sixteen_bits(folder: Path, data: PreparedDataset) -> None:
    row = packed_row(data, range(20))
    sixteen = add_lora(load_base(str(folder), dtype=torch.bfloat16, device=CPU), LoraSpec(8, 16), seed=0)
    four = add_lora(base(folder, "nf4, double", torch.bfloat16), LoraSpec(8, 16), seed=0)
    kept = [memory_usage.activations(Forward(model, CPU), row) for model in (four, sixteen)]
    assert kept[0] <= kept[1]


def test_the_command_line_trains_in_four_bits(model_dir: Path, tmp_path: Path) -> None:
    settings = {
        "quantization_bit": 4, "quantization_method": "bnb", "quantization_type": "nf4", "double_quantization": "true",
        "max_samples": 24, "num_train_epochs": 12, "learning_rate": 1e-2, "bf16": "true", "optim": "paged_adamw_8bit",
    }  # fmt: skip
    ran = cli("train", config_file(tmp_path, model_dir, **settings), "--json")
    assert ran.status == 0, ran.err
    assert "paging moves state" in ran.err
    run = tmp_path / "run"
    log = [json.loads(line) for line in (run / "trainer_log.jsonl").read_text().splitlines()]
    trained = [entry["loss"] for entry in log if "loss" in entry]
    assert trained[-1] < trained[0] - 1
    assert ran.json["memory"]["quantized_weights"] > 0
    plain = AutoModelForCausalLM.from_pretrained(model_dir)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = plain(ids).logits
        after = PeftModel.from_pretrained(plain, str(run)).eval()(ids).logits
    assert (after - before).abs().max() > 1e-2


@pytest.mark.slow
def test_a_real_chat_model_learns_in_four_bits(tmp_path: Path) -> None:
    ran = cli(
        "train", ROOT / "configs" / "base.yaml", "--json", f"output_dir={tmp_path / 'run'}",
        "dataset=identity", "quantization_bit=4", "dtype=bf16", "max_steps=8", "logging_steps=1", "learning_rate=1e-3",
        "warmup_ratio=0", f"prepared_dir={tmp_path / 'prepared'}", "per_device_train_batch_size=4",
        "gradient_accumulation_steps=1", "save_strategy=no",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    log = [json.loads(line) for line in (tmp_path / "run" / "trainer_log.jsonl").read_text().splitlines()]
    trained = [entry["loss"] for entry in log if "loss" in entry]
    assert len(trained) == 8
    assert sum(trained[-3:]) < sum(trained[:3]) - 0.5
    memory = ran.json["memory"]
    # 106 M weights of linear layers at 4.127 bits, and the embedding of 28 M in 16.
    assert memory["quantized_weights"] == pytest.approx(106.2e6 * 4.127 / 8, rel=0.02)
    assert memory["weights"] - memory["quantized_weights"] == pytest.approx(2 * 28.3e6, rel=0.02)
