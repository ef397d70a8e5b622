"""Every training parameter of the guide has its effect, from the config's key to what the run leaves behind.

The arithmetic behind each is tested where it lives; here it is that the key reaches it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cli_run import DATA
from qlora_fast.config import Config, load
from qlora_fast.data import open_prepared
from qlora_fast.errors import ArtifactError, ConfigError
from qlora_fast.run import train
from tiny_folder import config_file


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    results: dict[str, Any]

    @property
    def log(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.folder / "trainer_log.jsonl").read_text().splitlines()]

    def column(self, name: str) -> list[float]:
        return [entry[name] for entry in self.log if name in entry]

    @property
    def weights(self) -> dict[str, Tensor]:
        return load_file(self.folder / "adapter_model.safetensors")

    @property
    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = json.loads((self.folder / "adapter_config.json").read_text())
        return settings

    @property
    def samples(self) -> Any:
        return open_prepared(next((self.folder.parent / "prepared").iterdir()))


Make = Callable[..., Run]


@pytest.fixture
def run(model_dir: Path, tmp_path: Path) -> Make:
    """Trains in a tenth of a second; equal settings give equal runs."""
    made = 0

    def make(**settings: Any) -> Run:
        nonlocal made
        made += 1
        folder = tmp_path / f"{made}"
        folder.mkdir()
        few = {"max_samples": 24, "plot_loss": "false", "optim": "adamw_torch", "val_size": 8, "eval_strategy": "no"}
        config = load(config_file(folder, model_dir, **{**few, "compute_accuracy": "false", **settings})).config
        return Run(folder / "run", train(config))

    return make


def size(change: dict[str, Tensor], part: str) -> float:
    return sum(float(value.norm()) for name, value in change.items() if part in name)


def same(a: Run, b: Run) -> bool:
    ours, theirs = a.weights, b.weights
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


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


# --- the data


def test_max_samples_and_val_size(run: Make) -> None:
    made = run(max_samples=20, val_size=0.25, eval_strategy="epoch")
    assert made.results["train_samples"] == 15
    assert len((made.folder / "eval_samples.jsonl").read_text().splitlines()) == 5
    assert run(max_samples=20, val_size=3).results["train_samples"] == 17


def test_cutoff_len(run: Make) -> None:
    for cutoff in (24, 48):
        assert run(cutoff_len=cutoff).samples.lengths.max() == cutoff


def test_train_on_prompt_and_mask_history(run: Make, tmp_path: Path) -> None:
    talk = [
        {"role": "user", "content": "Hello there"},
        {"role": "assistant", "content": "Hi, how are you?"},
        {"role": "user", "content": "Well"},
        {"role": "assistant", "content": "Good."},
    ]
    (tmp_path / "talk.json").write_text(json.dumps([{"messages": talk}] * 4))
    data = {"dataset": tmp_path / "talk.json", "val_size": 0, "cutoff_len": 128}
    plain, all_of_it, last = (
        run(**data, **more) for more in ({}, {"train_on_prompt": "true"}, {"mask_history": "true"})
    )
    counts = [int(r.samples.supervised[0]) for r in (last, plain, all_of_it)]
    assert counts == sorted(set(counts)), "the last answer, all answers, everything"
    assert len({tuple(r.column("loss")) for r in (plain, all_of_it, last)}) == 3


def test_a_message_may_be_left_unlearned(run: Make, tmp_path: Path) -> None:
    def supervised(first: bool) -> int:
        talk = [
            {"role": "user", "content": "Hello there"},
            {"role": "assistant", "content": "Hi, how are you?", "loss": first},
            {"role": "user", "content": "Well"},
            {"role": "assistant", "content": "Good."},
        ]
        file = tmp_path / f"{first}.json"
        file.write_text(json.dumps([{"messages": talk}] * 4))
        return int(run(dataset=file, val_size=0, cutoff_len=128).samples.supervised[0])

    assert 0 < supervised(False) < supervised(True)


# --- evaluation


def test_eval_strategy_steps_and_batch(run: Make) -> None:
    def at(**settings: Any) -> list[float]:
        return [entry["step"] for entry in run(**settings).log if "eval_loss" in entry]

    assert at(eval_strategy="no") == []
    assert at(eval_strategy="steps", eval_steps=3) == [3, 6, 8]
    assert at(eval_strategy="epoch") == [4, 8]
    one, many = (run(eval_strategy="epoch", per_device_eval_batch_size=size).results for size in (1, 8))
    assert one["eval_loss"] == pytest.approx(many["eval_loss"], rel=1e-6)
    assert one["eval_loss_hf"] != pytest.approx(many["eval_loss_hf"], rel=1e-6), "as transformers' depends on it"
    assert many["perplexity"] == pytest.approx(np.exp(many["eval_loss"]))


def test_several_eval_datasets_each_have_their_loss(run: Make, tmp_path: Path) -> None:
    rows = json.loads((DATA / "demo" / "alpaca_en.json").read_text())
    for name, part in (("short", rows[:3]), ("long", rows[3:9])):
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    both = f"{tmp_path}/short.json,{tmp_path}/long.json"
    made = run(eval_dataset=both, val_size=0, eval_strategy="epoch", compute_accuracy="true")
    results = made.results
    tokens = [json.loads(line) for line in (made.folder / "eval_samples.jsonl").read_text().splitlines()]
    weights = [sum(t["tokens"] for t in tokens if t["file"].endswith(name)) for name in ("short.json", "long.json")]
    mean = np.average([results["eval_short_loss"], results["eval_long_loss"]], weights=weights)
    assert results["eval_loss"] == pytest.approx(float(mean), rel=1e-6)
    assert results["eval_short_loss"] != results["eval_long_loss"]
    assert {"eval_short_accuracy", "eval_long_accuracy"} <= results.keys()
    one = run(eval_dataset=f"{tmp_path}/short.json", val_size=0, eval_strategy="epoch").results
    assert "eval_short_loss" not in one, "one set is what eval_loss says"


def test_compute_accuracy(run: Make) -> None:
    assert "eval_accuracy" not in run(eval_strategy="epoch").results
    learned = {"eval_dataset": DATA / "demo" / "alpaca_en.json", "val_size": 0, "max_samples": 4, "max_steps": 60}
    results = run(**learned, eval_strategy="epoch", compute_accuracy="true", learning_rate=2e-2).results
    assert 0.2 < results["eval_accuracy"] <= 1
    assert results["eval_loss"] < 4


@pytest.mark.parametrize("metric", ["eval_loss", "eval_accuracy"])
def test_load_best_model_at_end(run: Make, metric: str) -> None:
    # At this rate it only gets worse.
    bad = {"learning_rate": 1.0, "eval_strategy": "steps", "eval_steps": 1, "compute_accuracy": "true", "max_steps": 6}
    best, last = (run(**bad, load_best_model_at_end=on, metric_for_best_model=metric) for on in ("true", "false"))
    at_best = best.results["best_step"]
    evals = {entry["step"]: entry[metric] for entry in best.log if metric in entry}
    assert evals[at_best] == (min if metric == "eval_loss" else max)(evals.values())
    assert best.results[metric] == evals[at_best]
    for made, folder in ((best, "best"), (last, "last")):
        kept = load_file(made.folder / folder / "adapter_model.safetensors")
        assert all(torch.equal(value, kept[name]) for name, value in made.weights.items())
    if at_best < 6:
        assert not same(best, last)


def test_early_stopping_counts_evaluations(run: Make) -> None:
    # At this rate it only gets worse.
    bad = {"learning_rate": 1.0, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 30, "seed": 3}
    stopped = run(**bad, early_stopping_steps=2).results
    assert stopped["train_steps"] == stopped["best_step"] + 4
    assert stopped["train_steps"] < 30
    assert run(**bad).results["train_steps"] == 30


# --- output


def test_overwrite_output_dir(run: Make, model_dir: Path, tmp_path: Path) -> None:
    first = run()
    path = config_file(tmp_path, model_dir, output_dir=first.folder, max_samples=24, plot_loss="false")
    with pytest.raises(ArtifactError, match="holds a run already"):
        train(load(path).config)
    train(load(path, ["overwrite_output_dir=true"]).config)
    aside = [p for p in first.folder.parent.iterdir() if ".old-" in p.name]
    assert [(p / "adapter_model.safetensors").is_file() for p in aside] == [True], "moved aside, not deleted"


def test_logging_steps(run: Make) -> None:
    assert [e["step"] for e in run(logging_steps=3).log] == [3, 6, 8]
    assert {"loss", "learning_rate", "grad_norm", "epoch", "step"} <= run().log[0].keys()


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"save_strategy": "no"}, []),
        ({"save_strategy": "steps", "save_steps": 3}, [3, 6, 8]),
        ({"save_strategy": "epoch"}, [4, 8]),
        ({"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}, [6, 8]),
    ],
)
def test_save_strategy_steps_and_limit(run: Make, settings: dict[str, Any], left: list[int]) -> None:
    found = run(**settings).folder.glob("checkpoint-*")
    assert sorted(int(p.name.split("-")[1]) for p in found) == left


def test_save_only_model_leaves_an_adapter_and_no_way_to_go_on(run: Make, model_dir: Path, tmp_path: Path) -> None:
    made = run(save_strategy="epoch", save_only_model="true")
    files = {p.name for p in (made.folder / "checkpoint-8").iterdir()}
    assert "adapter_model.safetensors" in files
    assert not files & {"optimizer.safetensors", "random.safetensors", "progress.json"}
    path = made.folder.parent / "tiny.yaml"
    with pytest.raises(ArtifactError, match="holds the adapter alone") as caught:
        train(load(path, ["resume_from_checkpoint=true"]).config)
    assert "save_only_model: false" in str(caught.value.hint)


def test_plot_loss(run: Make) -> None:
    names = {"training_loss.png", "training_eval_loss.png"}
    for on, evals, expected in (
        ("true", "epoch", names),
        ("true", "no", {"training_loss.png"}),
        ("false", "epoch", set()),
    ):
        made = run(plot_loss=on, eval_strategy=evals)
        assert {p.name for p in made.folder.glob("*.png")} == expected


def test_the_output_folder_is_the_guides_file_for_file(run: Make) -> None:
    folder = run(save_strategy="epoch", plot_loss="true", eval_strategy="epoch").folder
    guide = {
        "adapter_model.safetensors", "adapter_config.json", "checkpoint-4", "checkpoint-8", "trainer_state.json",
        "training_loss.png", "training_eval_loss.png", "train_results.json", "tokenizer.json", "tokenizer_config.json",
        "all_results.json",
    }  # fmt: skip
    own = {
        "best", "last", "config.yaml", "run.json", "README.md", "trainer_log.jsonl", "eval_results.json",
        "eval_samples.jsonl", "qlora_fast.json",
    }  # fmt: skip
    assert {p.name for p in folder.iterdir()} == guide | own
    checkpoint = {p.name for p in (folder / "checkpoint-4").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "trainer_state.json"} <= checkpoint
    state, train_results, results = (
        json.loads((folder / name).read_text())
        for name in ("trainer_state.json", "train_results.json", "all_results.json")
    )
    assert state["global_step"] == 8
    assert [e["step"] for e in state["log_history"] if "loss" in e] == list(range(1, 9))
    assert set(train_results) <= set(results)
    assert {"train_loss", "train_runtime", "train_steps_per_second", "epoch", "memory"} <= set(train_results)
    assert "eval_loss" in results
    assert "eval_loss" not in train_results


def test_a_config_has_no_key_that_nobody_reads() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in (Path(__file__).parent.parent / "python" / "qlora_fast").rglob("*.py")
        if "config" not in path.parts
    )
    unread = [name for name in Config.__dataclass_fields__ if f".{name}" not in source and f'"{name}"' not in source]
    indirect = {"lora_alpha", "max_tokens_per_row", "val_size", "report_to"}
    assert set(unread) <= indirect, unread
