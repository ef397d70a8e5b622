"""Every training parameter of the guide has its effect, from the config's key to what the run leaves behind.

The arithmetic behind each is tested where it lives; here it is that the key reaches it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from parameter_run import Make, maker, same, size
from qlora_fast.errors import ConfigError


@pytest.fixture
def run(model_dir: Path, tmp_path: Path) -> Make:
    return maker(model_dir, tmp_path)


# --- the adapter


def test_rank_alpha_dropout_and_target(run: Make) -> None:
    made = run(lora_rank=2, lora_alpha=6, lora_dropout=0.1, lora_target="q_proj,v_proj")
    assert {tuple(v.shape) for n, v in made.weights.items() if "lora_A" in n} == {(2, 32)}
    assert {n.split(".self_attn.")[1].split(".")[0] for n in made.weights} == {"q_proj", "v_proj"}
    found = [made.settings[key] for key in ("r", "lora_alpha", "lora_dropout")]
    assert found == [2, 6, 0.1]
    assert not same(made, run(lora_rank=2, lora_alpha=6, lora_dropout=0.3, lora_target="q_proj,v_proj"))
    assert run(lora_rank=2).settings["lora_alpha"] == 4, "twice the rank"


def test_target_all_and_additional_target(run: Make) -> None:
    made = run(additional_target="lm_head,embed_tokens,norm")
    adapted = {n.split(".lora_")[0].rsplit(".", 1)[-1] for n in made.weights if ".lora_" in n}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    whole = {n.removeprefix("base_model.model.") for n in made.weights if ".lora_" not in n}
    assert whole == {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"}


@pytest.mark.parametrize(
    ("setting", "shown"), [("use_dora", "use_dora"), ("use_rslora", "use_rslora"), ("pissa_init", "init_lora_weights")]
)
def test_variants_are_switched_on_and_train_otherwise(run: Make, setting: str, shown: str) -> None:
    plain, made = run(), run(**{setting: "true"})
    assert plain.column("loss") != made.column("loss")
    assert made.settings[shown] is True
    assert made.settings["r"] == (8 if setting == "pissa_init" else 4)
    assert any("magnitude" in name for name in made.weights) == (setting == "use_dora")


def test_pissa_and_few_bits_are_refused_before_anything_is_loaded(run: Make) -> None:
    with pytest.raises(ConfigError, match="pissa_init"):
        run(pissa_init="true", quantization_bit=4)


@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        ({"quantization_bit": 4}, 4),
        ({"quantization_bit": 4, "quantization_type": "fp4", "double_quantization": "false"}, 4),
        ({"quantization_bit": 8}, 8),
    ],
)
def test_quantization_takes_the_bits_that_it_says(run: Make, settings: dict[str, Any], bits: int) -> None:
    plain, made = run(), run(**settings)
    memory = made.results["memory"]
    assert plain.results["memory"]["quantized_weights"] == 0
    assert memory["quantized_weights"] > 0
    assert made.column("loss")[0] == pytest.approx(plain.column("loss")[0], rel=0.05)
    assert made.column("loss") != plain.column("loss")


def test_type_and_double_quantization_matter(run: Make) -> None:
    losses = {}
    memory = {}
    for kind in ("nf4", "fp4"):
        for double in ("true", "false"):
            made = run(quantization_bit=4, quantization_type=kind, double_quantization=double)
            losses[kind, double] = made.column("loss")[0]
            memory[kind, double] = made.results["memory"]["quantized_weights"]
    assert len(set(losses.values())) == 4
    assert memory["nf4", "true"] == memory["fp4", "true"]


def test_other_quantizations_are_refused_by_name(run: Make) -> None:
    for settings, what in (({"quantization_method": "hqq"}, "hqq"), ({"quantization_bit": 3}, "3")):
        with pytest.raises(ConfigError, match=what):
            run(**{"quantization_bit": 4, **settings})


def test_neftune_is_noise_while_training_and_none_in_evaluation(run: Make) -> None:
    first = {"max_steps": 1, "learning_rate": 1e-12, "eval_strategy": "steps", "eval_steps": 1}
    plain, noisy = run(**first), run(**first, neftune_noise_alpha=20)
    assert plain.column("loss") != noisy.column("loss")
    assert plain.column("eval_loss") == pytest.approx(noisy.column("eval_loss"), rel=1e-6)


# --- the optimization


def test_learning_rate_schedule_and_warmup(run: Make) -> None:
    assert run(learning_rate=1e-3).column("learning_rate")[0] == 1e-3
    steps = {"max_steps": 10}
    assert run(**steps, warmup_ratio=0.15).column("learning_rate").index(5e-3) == 2, "ceil(1.5) updates of warm-up"
    assert run(**steps, warmup_ratio=0.5, warmup_steps=3).column("learning_rate").index(5e-3) == 3
    ends = {
        kind: run(**steps, lr_scheduler_type=kind, **more).column("learning_rate")[-1]
        for kind, more in {
            "constant": {},
            "linear": {},
            "cosine": {},
            "cosine_with_min_lr": {"lr_scheduler_kwargs": "{min_lr: 0.002}"},
        }.items()
    }
    assert ends["constant"] == 5e-3
    assert ends["linear"] == pytest.approx(5e-4)
    assert ends["cosine"] == pytest.approx(5e-3 * 0.5 * (1 + np.cos(np.pi * 0.9)))
    assert ends["cosine_with_min_lr"] > 2e-3


def test_lora_plus(run: Make) -> None:
    plain, plus = (run(max_steps=1, loraplus_lr_ratio=ratio) for ratio in (1, 16))
    # B starts at zero and the first update of Adam is as large as its rate.
    assert size(plus.weights, "lora_B") == pytest.approx(16 * size(plain.weights, "lora_B"), rel=0.02)
    assert size(plus.weights, "lora_A") == pytest.approx(size(plain.weights, "lora_A"), rel=1e-6)


def test_lora_plus_leaves_the_rate_of_embeddings_to_a_setting_of_its_own(run: Make) -> None:
    # Of an embedding's adapter it is A that starts at zero: B moves from the second update on.
    on = {"max_steps": 2, "lora_target": "q_proj,embed_tokens", "loraplus_lr_ratio": 16, "optim": "adamw_torch"}
    still, slow, fast = (run(**on, loraplus_lr_embedding=rate).weights for rate in (1e-12, 1e-5, 1e-3))
    moved = [size({n: v - still[n] for n, v in made.items()}, "lora_embedding_B") for made in (slow, fast)]
    assert moved[1] == pytest.approx(100 * moved[0], rel=0.05)
    assert size(fast, "lora_B") == pytest.approx(size(slow, "lora_B"), rel=1e-6)


def test_weight_decay_and_clipping(run: Make) -> None:
    plain = run(num_train_epochs=4)
    assert size(run(num_train_epochs=4, weight_decay=2).weights, "lora_A") < 0.95 * size(plain.weights, "lora_A")
    assert not same(plain, run(num_train_epochs=4, max_grad_norm=1e-7))
    assert plain.column("grad_norm")[0] > 1e-6, "the norm that is logged is the one before clipping"


@pytest.mark.parametrize(
    ("optim", "dtype"),
    [("adamw_torch", torch.float32), ("adamw_8bit", torch.uint8), ("paged_adamw_8bit", torch.uint8),
     ("paged_adamw_32bit", torch.float32)],
)  # fmt: skip
def test_optim_decides_what_the_state_is(run: Make, optim: str, dtype: torch.dtype) -> None:
    made = run(optim=optim, save_strategy="epoch")
    state = load_file(made.folder / "checkpoint-8" / "optimizer.safetensors")
    moments = {v.dtype for n, v in state.items() if "exp_avg" in n or "state" in n}
    assert moments == {dtype}
    assert made.column("loss")[-1] < made.column("loss")[0]


def test_epochs_steps_and_the_effective_batch(run: Make) -> None:
    # 24 rows, 8 held out: 16 samples, 4 an update.
    assert run().results["train_steps"] == 8
    assert run(num_train_epochs=0.6).results["train_steps"] == 3
    assert run(max_steps=5).results["train_steps"] == 5
    assert run(per_device_train_batch_size=2).results["train_steps"] == 16
    halves = run(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert halves.results["train_steps"] == 8
    assert same(halves, run()), "the same samples in the same rows"


def test_seed(run: Make) -> None:
    assert same(run(seed=1), run(seed=1))
    assert not same(run(seed=1), run(seed=2))


@pytest.mark.parametrize("setting", [{"bf16": "true"}, {"dtype": "bf16"}])
def test_bf16(run: Make, setting: dict[str, str]) -> None:
    plain, made = run(), run(**setting)
    assert made.results["memory"]["weights"] == pytest.approx(plain.results["memory"]["weights"] / 2, rel=0.01)
    assert {v.dtype for v in made.weights.values()} == {torch.float32}, "what is trained stays in fp32"


def test_fp16_without_a_gpu_is_refused_with_a_hint(run: Make, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="needs a GPU") as caught:
        run(fp16="true", output_dir=tmp_path / "never")
    assert "bf16" in str(caught.value.hint)
    assert not (tmp_path / "never").exists(), "refused before anything is made"


def test_gradient_checkpointing(run: Make) -> None:
    on, off, auto = (run(gradient_checkpointing=setting) for setting in ("true", "false", "auto"))
    assert [r.results["gradient_checkpointing"] for r in (on, off, auto)] == [True, False, False]
    assert on.column("loss") == pytest.approx(off.column("loss"), rel=1e-5)
