"""Merging: the merged model answers as base and adapter do, a zero adapter changes no bit, nothing is lost silently."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

import tiny
from cli_run import cli
from qlora_fast.errors import ArtifactError
from qlora_fast.hub import manifest
from qlora_fast.hub.untrusted import INDEX, weight_files
from qlora_fast.merge import verify
from qlora_fast.merge.delta import nearest, read_update
from qlora_fast.merge.merge import Options, _check_space, _notes, merge_run
from qlora_fast.merge.safetensors_stream import Entry, read_header, write_file
from qlora_fast.merge.verify import FromTrained, compare_logits
from qlora_fast.merge.weights import Counts, base_folder, write_merged
from qlora_fast.model.load import Quantization, load_base, quiet_libraries
from tiny_folder import trained

PROMPTS = [[5, 9, 2, 40, 41, 7], list(range(3, 60)), [96, 1]]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base_model(
    folder: Path, kind: str = "qwen3", dtype: torch.dtype = torch.float32, shard: str = "5GB", **more: Any
) -> Path:
    model = tiny.MODELS[kind](attention="sdpa", **more).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)  # type: ignore[operator]
    return folder


def adapter(base: Path, folder: Path, *, std: float = 0.05, dtype: torch.dtype = torch.float32, **config: Any) -> Path:
    """An adapter as PEFT saves it, with random values in all that is trained."""
    quiet_libraries()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    peft = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": LINEAR, **config}))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in peft.named_parameters():
        if not parameter.requires_grad:
            continue
        if "lora_B" in name:
            parameter.data.normal_(std=std, generator=generator)
        elif "lora_A" not in name:
            parameter.data.mul_(1 + std * torch.rand(parameter.shape, generator=generator).to(parameter.dtype))
    peft.save_pretrained(folder)
    return folder


def merged(base: Path, update: Path, folder: Path, dtype: torch.dtype | None = None) -> Counts:
    folder.mkdir()
    return write_merged(base, read_update(update), folder, dtype)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for path in weight_files(folder) for name, t in load_file(path).items()}


VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "embedding": {"modules_to_save": ["embed_tokens"]},
    "head": {"modules_to_save": ["lm_head"]},
    "head lora": {"target_modules": [*LINEAR, "lm_head"]},
    "few layers": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_merged_logits_are_those_of_base_and_adapter(kind: str, variant: str, tmp_path: Path) -> None:
    """fp32: within 1e-4 of the largest logit, for models with a head of their own (llama) and a tied one (qwen3)."""
    base = base_model(tmp_path / "base", kind)
    update = adapter(base, tmp_path / "adapter", **VARIANTS[variant])
    counts = merged(base, update, tmp_path / "merged")
    assert counts.moved > 0
    check = compare_logits(base, update, tmp_path / "merged", PROMPTS, exact=True)
    assert check.passed, check
    assert check.max_difference <= 1e-4 * check.largest_logit
    assert check.kl_update > 1e-4, "the adapter does something"


def test_a_head_that_is_the_embedding_stays_one_when_both_were_trained_as_one(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    update = adapter(base, tmp_path / "adapter", modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    merged(base, update, tmp_path / "merged")
    assert "lm_head.weight" not in tensors(tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"]
    assert compare_logits(base, update, tmp_path / "merged", PROMPTS, exact=True).passed


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_the_weights_are_pefts_own(variant: str, tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    update = adapter(base, tmp_path / "adapter", **VARIANTS[variant])
    merged(base, update, tmp_path / "merged")
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(update)).merge_and_unload()
    theirs = peft.state_dict()
    for name, ours in tensors(tmp_path / "merged").items():
        torch.testing.assert_close(ours, theirs[name], rtol=1e-5, atol=1e-6)


def test_bf16_is_within_its_bound_and_better_than_adding_in_bf16(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base", "llama", torch.bfloat16)
    update = adapter(base, tmp_path / "adapter", std=0.05)
    counts = merged(base, update, tmp_path / "merged")
    check = compare_logits(base, update, tmp_path / "merged", PROMPTS, exact=False)
    assert check.passed, check
    assert check.kl_mean <= max(verify.KL_16, verify.SHARE_16 * check.kl_update)
    assert {t.dtype for t in tensors(tmp_path / "merged").values()} == {torch.bfloat16}
    # Each weight is the bf16 nearest to the fp32 sum.
    parts = read_update(update).layers["model.layers.0.mlp.up_proj.weight"]
    weight = tensors(base)["model.layers.0.mlp.up_proj.weight"]
    exact = weight.double() + parts.scale * (parts.b.double() @ parts.a.double())
    ours = tensors(tmp_path / "merged")["model.layers.0.mlp.up_proj.weight"].double()
    assert (ours - exact).abs().max() <= 2**-8 * exact.abs().max()
    assert 0 < counts.rounding < 1
    in_fp32 = merged(base, update, tmp_path / "exact", torch.float32)
    assert in_fp32.rounding < 1e-6
    assert json.loads((tmp_path / "exact" / "config.json").read_text())["dtype"] == "float32"
    assert compare_logits(base, update, tmp_path / "exact", PROMPTS, exact=True).passed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["lora", "rslora"])
def test_a_zero_adapter_gives_the_base_bit_for_bit(variant: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = base_model(tmp_path / "base", dtype=dtype)
    # A −0 in the base is where 0 + (−0) would show.
    path = base / "model.safetensors"
    own = load_file(path)
    own["model.layers.0.mlp.up_proj.weight"][0, :5] = -0.0
    save_file(own, path, metadata={"format": "pt"})
    update = adapter(base, tmp_path / "adapter", std=0.0, **VARIANTS[variant])
    counts = merged(base, update, tmp_path / "merged")
    assert (counts.moved, counts.changed) == (0, 0)
    assert sorted(p.name for p in weight_files(tmp_path / "merged")) == ["model.safetensors"]
    after = tensors(tmp_path / "merged")
    assert after.keys() == own.keys()
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    for name, tensor in own.items():
        assert torch.equal(tensor.view(bits), after[name].view(bits)), name
    assert json.loads((tmp_path / "merged" / "config.json").read_text()) == json.loads(
        (base / "config.json").read_text()
    )


def test_shards_stay_as_they_are_and_one_tensor_is_in_memory_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_model(tmp_path / "base", "llama", shard="40KB")
    files = [p.name for p in weight_files(base)]
    assert len(files) > 2
    update = adapter(base, tmp_path / "adapter")
    alive: list[int] = []
    import qlora_fast.merge.safetensors_stream as module

    plain = module.write_file

    def watched(path: Path, entries: list[Entry], tensor_of: Callable[[Entry], torch.Tensor]) -> None:
        def one(entry: Entry) -> torch.Tensor:
            alive.append(entry.bytes)
            return tensor_of(entry)

        plain(path, entries, one)

    monkeypatch.setattr("qlora_fast.merge.weights.write_file", watched)
    merged(base, update, tmp_path / "merged")
    assert [p.name for p in weight_files(tmp_path / "merged")] == files
    index = json.loads((tmp_path / "merged" / INDEX).read_text())
    assert index["weight_map"] == json.loads((base / INDEX).read_text())["weight_map"]
    assert index["metadata"]["total_size"] == sum(alive)
    assert compare_logits(base, update, tmp_path / "merged", PROMPTS, exact=True).passed


def test_the_writers_files_are_read_by_the_library(tmp_path: Path) -> None:
    content = {
        "a": torch.arange(6.0).view(2, 3),
        "b": torch.tensor(3, dtype=torch.int64),
        "c": torch.ones(5).bfloat16(),
    }
    entries = [Entry(name, t.dtype, tuple(t.shape)) for name, t in content.items()]
    write_file(tmp_path / "x.safetensors", entries, lambda e: content[e.name])
    assert read_header(tmp_path / "x.safetensors") == entries
    for name, tensor in load_file(tmp_path / "x.safetensors").items():
        assert torch.equal(tensor, content[name])
    (tmp_path / "x.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0{...}")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("kl_mean", "kl_update", "passed", "lost"),
    [
        (0.0029, 0.0418, True, False),  # the embedded model after four optimizer steps, and after five
        (0.0027, 0.0452, True, False),
        (0.0049, 0.05, True, False),
        (0.0084, 0.1, False, False),
        (0.04, 1.0, True, False),  # under 5 % of a large update
        (0.02, 0.1, False, False),
        (0.003, 0.005, True, True),
        (1e-7, 1e-7, True, False),  # no update at all
    ],
)
def test_a_16_bit_merge_may_round_and_may_not_lose(kl_mean: float, kl_update: float, passed: bool, lost: bool) -> None:
    check = verify.Check(234, 1.0, 41.0, kl_mean, 0.1, kl_update, 0.97, exact=False)
    assert (check.passed, check.lost) == (passed, lost)


def test_an_update_below_the_resolution_is_refused_and_nothing_is_left(model_dir: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "r", model_dir, num_train_epochs=1, eval_strategy="no", val_size=0)
    base = tmp_path / "base16"
    AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16).save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_bytes((model_dir / name).read_bytes())
    stored = load_file(run / "adapter_model.safetensors")
    tiny_update = {n: t * (1e-7 if "lora_B" in n else 1) for n, t in stored.items()}
    save_file(tiny_update, run / "adapter_model.safetensors", metadata={"format": "pt"})
    manifest.write(run)
    with pytest.raises(ArtifactError, match="lost in rounding") as caught:
        merge_run(run, tmp_path / "m", Options(base=str(base)))
    assert "--dtype fp32" in str(caught.value.hint)
    assert not (tmp_path / "m").exists()
    assert not list(tmp_path.glob(".m.*"))
    assert merge_run(run, tmp_path / "m", Options(base=str(base), dtype="fp32")).report["check"]["kl_mean"] < 1e-8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "not LoRA"),
        ({"bias": "all"}, "made with `bias`"),
        ({"rank_pattern": {"q_proj": 8}}, "made with `rank_pattern`"),
        ({"init_lora_weights": "pissa"}, "a base that was changed"),
    ],
)
def test_kinds_that_cannot_be_folded_are_refused_by_name(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    update = adapter(base, tmp_path / "adapter")
    path = update / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactError, match=words):
        read_update(update)


def test_every_part_of_an_adapter_must_find_its_weight(tmp_path: Path) -> None:
    base, other = base_model(tmp_path / "base"), base_model(tmp_path / "other", hidden_size=64, num_hidden_layers=1)
    update = adapter(base, tmp_path / "adapter")
    (tmp_path / "m").mkdir()
    with pytest.raises(ArtifactError, match=r"which `.*` does not have|the adapter's"):
        write_merged(other, read_update(update), tmp_path / "m")
    stored = load_file(update / "adapter_model.safetensors")
    stored["base_model.model.model.layers.0.self_attn.q_proj.lora_strange"] = torch.ones(1)
    save_file(stored, update / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match="lora_strange"):
        read_update(update)


def test_quantized_weights_are_no_place_for_an_update(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    path = base / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(
        json.dumps({**settings, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}})
    )
    with pytest.raises(ArtifactError, match=r"stored quantized \(bitsandbytes\)") as caught:
        base_folder(str(base))
    assert "--base" in str(caught.value.hint)


def test_the_check_notices_a_wrong_merge(tmp_path: Path) -> None:
    """The guard: half of the update, or the base itself, does not pass."""
    base = base_model(tmp_path / "base")
    update = adapter(base, tmp_path / "adapter", lora_alpha=8)
    half = adapter(base, tmp_path / "half", lora_alpha=4)
    merged(base, half, tmp_path / "m")
    assert not compare_logits(base, update, tmp_path / "m", PROMPTS, exact=True).passed
    assert compare_logits(base, update, base, PROMPTS, exact=False).lost


@pytest.mark.parametrize("bits", [4, 8])
def test_the_change_of_the_base_is_measured_against_the_quantized_one(bits: int, tmp_path: Path) -> None:
    """Merged onto what the quantized weights stand for, nothing is left of it; merged onto the base, the rounding is."""
    base = base_model(tmp_path / "base", "llama")
    update = adapter(base, tmp_path / "adapter")
    trained_on = Quantization(bits=bits)
    same = dequantized(base, trained_on, tmp_path / "same")

    def measured(onto: Path, name: str) -> FromTrained:
        merged(onto, update, tmp_path / name)
        check = compare_logits(base, update, tmp_path / name, PROMPTS, exact=True, trained_on=trained_on)
        assert check.from_trained is not None
        return check.from_trained

    onto_base, onto_same = measured(base, "m"), measured(same, "n")
    assert onto_base.bits == bits
    assert 0 < onto_base.kl_mean < onto_base.kl_max
    assert onto_base.same_top <= onto_same.same_top
    assert onto_same.kl_mean < 1e-9 < 1e-6 < onto_base.kl_mean
    assert onto_base.kl_update == onto_same.kl_update > 1e-4
    assert compare_logits(base, update, tmp_path / "m", PROMPTS, exact=True).from_trained is None


def test_a_machine_that_cannot_quantize_merges_and_says_what_it_did_not_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("bitsandbytes is not installed\nlong story")

    base = base_model(tmp_path / "base")
    update = adapter(base, tmp_path / "adapter")
    merged(base, update, tmp_path / "m")
    monkeypatch.setattr(verify, "load_base", missing)
    check = compare_logits(base, update, tmp_path / "m", PROMPTS, exact=True, trained_on=Quantization())
    assert check.passed
    assert check.from_trained is None
    assert caplog.messages == ["not compared with the base in 4 bits: bitsandbytes is not installed"]
    (note,) = _notes(Quantization(), Counts(), check, [])
    assert "(not measured)" in note


def dequantized(base: Path, quantization: Quantization, folder: Path) -> Path:
    """A model folder in fp32 whose weights are exactly those that the quantized base computes with."""
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant

    shutil.copytree(base, folder)
    values = load_file(folder / "model.safetensors")
    model = load_base(str(base), dtype=torch.float32, device=torch.device("cpu"), quantization=quantization)
    for name, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        if type(module).__name__ == "Linear4bit":
            values[f"{name}.weight"] = dequantize_4bit(weight.data, weight.quant_state).float()
        elif type(module).__name__ == "Linear8bitLt":
            values[f"{name}.weight"] = int8_vectorwise_dequant(weight.data, weight.SCB).float()
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_nearest_keeps_the_bits_of_what_does_not_move() -> None:
    base = torch.tensor([-0.0, 1.0, 2.0])
    wanted = torch.tensor([0.0, 1.0, 2.5])
    out = nearest(wanted, base, torch.float32)
    assert torch.equal(out.view(torch.int32), torch.tensor([-0.0, 1.0, 2.5]).view(torch.int32))


def test_the_command_writes_a_folder_that_is_a_model(model_dir: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "r", model_dir, num_train_epochs=1, quantization_bit=4, double_quantization="true")
    out = tmp_path / "out" / "merged"
    ran = cli("merge", run, "-o", out)
    assert ran.status == 0, ran.err
    for words in ("vllm serve", "convert_hf_to_gguf.py", "ollama create merged", "logits differ by at most", "(bound "):
        assert words in ran.out
    report = json.loads((out / "merge.json").read_text())
    measured = report["check"]["from_trained"]
    assert measured["bits"] == 4
    assert measured["kl_mean"] > 1e-6, "4 bits are not 16"
    assert "kernels" not in ran.err, "bitsandbytes' own matters"
    assert "trained on a 4-bit base and merged into the 16-bit one" in ran.err
    assert f"{measured['kl_mean']:.1e} nats on average" in ran.err
    assert report["check"]["max_difference"] <= report["check"]["bound"]
    assert {"Modelfile", "README.md", "tokenizer.json", "config.json", "model.safetensors"} <= {
        p.name for p in out.iterdir()
    }
    both: nn.Module = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_dir), str(run)).eval()
    alone = AutoModelForCausalLM.from_pretrained(out).eval()
    ids = torch.tensor([PROMPTS[1]])
    with torch.no_grad():
        torch.testing.assert_close(alone(ids).logits, both(ids).logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(ArtifactError, match="already exists"):
        merge_run(run, out, Options())


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_model(tmp_path / "base", dtype=torch.bfloat16)
    size = (base / "model.safetensors").stat().st_size
    usage = shutil.disk_usage(tmp_path)._replace(free=size * 3 // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    _check_space(base, tmp_path / "merged", None)
    _check_space(base, tmp_path / "merged", torch.float16)
    with pytest.raises(ArtifactError, match=r"the merged model needs"):
        _check_space(base, tmp_path / "merged", torch.float32)


def test_template_and_stop_token_of_the_training_travel_with_the_merged_model(model_dir: Path, tmp_path: Path) -> None:
    """A base model without chat template, trained with one: transformers prompts, and stops, as our chat does."""
    from tokenizers import Tokenizer as Decoder
    from transformers import AutoTokenizer

    from qlora_fast.chat.commands import open_chat
    from qlora_fast.chat.session import Sampling

    base = tmp_path / "base"
    shutil.copytree(model_dir, base)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings.pop("chat_template")
    (base / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<|endoftext|>"}))
    ids = Decoder.from_file(str(base / "tokenizer.json"))
    end, learned = ids.token_to_id("<|endoftext|>"), ids.token_to_id("<|eot_id|>")
    for name in ("generation_config.json", "config.json"):
        content = json.loads((base / name).read_text())
        (base / name).write_text(json.dumps({**content, "eos_token_id": end}))
    # Enough steps that the answers end: the model learns to say one word, and then to stop.
    data = tmp_path / "d.json"
    data.write_text(json.dumps([{"instruction": "Say it.", "output": "yes"}] * 8))
    run = trained(
        tmp_path / "r", base, dataset=data, template="llama3", val_size=0, eval_strategy="no", num_train_epochs=30,
        learning_rate=3e-2, compute_accuracy="false",
    )  # fmt: skip
    made = merge_run(run, tmp_path / "merged", Options(check_dtype=None))
    assert any("chat template of the training" in note for note in made.notes)
    assert any("<|eot_id|>" in note for note in made.notes)

    tokenizer = AutoTokenizer.from_pretrained(made.folder)
    turns = [{"role": "user", "content": "Say it."}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    chat = open_chat(run, sampling=Sampling(max_new_tokens=20))
    conversation = json.dumps({"messages": turns})
    ours = chat.session._encoder.encode(conversation, add_generation_prompt=True)[0].tolist()
    assert prompt["input_ids"][0].tolist() == ours
    model = AutoModelForCausalLM.from_pretrained(made.folder)
    assert model.generation_config.eos_token_id == [learned, end]
    answer = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0, len(ours) :].tolist()
    said = "".join(chat.ask("Say it."))
    assert chat.session.stopped == "stop"
    assert answer[-1] == learned, "transformers stops at the token that training taught"
    assert tokenizer.decode(answer[:-1]) == said == "yes"


def test_a_base_of_an_unknown_architecture_is_refused_and_its_code_not_run(model_dir: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "trained", model_dir, max_steps=1)
    base = tmp_path / "base"
    shutil.copytree(model_dir, base)
    config = json.loads((base / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (base / "config.json").write_text(json.dumps(config))
    (base / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ArtifactError, match="cannot load the model"):
        merge_run(run, tmp_path / "out", Options(base=str(base)))
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()
