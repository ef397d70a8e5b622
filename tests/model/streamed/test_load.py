"""A model loaded part by part is the one that is loaded whole, and its loading never needs the memory of the whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny
from paths import ROOT
from qlora_fast.errors import ArtifactError, ConfigError
from qlora_fast.model.load import Quantization, load_base
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.model.streamed.load import load_streamed
from tiny_run import CPU


class Kept:
    """All bytes, in this process."""

    device_bytes = 0
    shared = False

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def keep(self, index: int, flat: Tensor) -> None:
        self.kept.append(flat.clone())

    def fill(self, index: int, flat: Tensor) -> None:
        flat.copy_(self.kept[index])


MODELS = {
    **tiny.MODELS,
    # Quantized layers with biases.
    "qwen3 with biases": lambda: tiny.qwen3(attention_bias=True),
    "llama with biases": lambda: tiny.llama(attention_bias=True, mlp_bias=True),
}


def both(folder: Path, bits: Quantization | None, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    common: dict[str, Any] = {"dtype": dtype, "device": CPU, "quantization": bits}
    return load_streamed(str(folder), Kept(), **common), load_base(str(folder), **common)


def described(model: Any) -> list[tuple[Any, ...]]:
    return [(n, p.shape, p.dtype, p.requires_grad, type(p)) for n, p in model.named_parameters()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])  # stored in fp32: it is cast on the way
@pytest.mark.parametrize("bits", [None, Quantization(), Quantization(bits=8)], ids=["unquantized", "nf4", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_same_model(tmp_path: Path, name: str, bits: Quantization | None, dtype: torch.dtype) -> None:
    tiny.save(MODELS[name](), tmp_path)
    parts, whole = both(tmp_path, bits, dtype)
    assert described(parts) == described(whole)
    for (n, one), (_, other) in zip(parts.named_buffers(), whole.named_buffers(), strict=True):
        assert torch.equal(one, other), n
    ids = torch.arange(6)[None]
    with torch.no_grad():
        logits = [model.train()(input_ids=ids, use_cache=False).logits for model in (parts, whole)]
    assert torch.equal(*logits)
    assert (parts.lm_head.weight is parts.model.embed_tokens.weight) == name.startswith("qwen3")
    assert not any(p.untyped_storage().nbytes() for p in parts.model.layers[-1].parameters()), (
        "its first use moved a weight"
    )


def test_what_is_missing_or_of_another_shape_is_named(tmp_path: Path) -> None:
    tiny.save(tiny.llama(), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    for changed, said in (({name: tensors[name][:-1].clone()}, "the shape"), ({}, f"have no `{name}`")):
        save_file({n: t for n, t in tensors.items() if n != name} | changed, file, {"format": "pt"})
        for bits in (None, Quantization(), Quantization(bits=8)):
            with pytest.raises(ArtifactError, match=said):
                load_streamed(str(tmp_path), Kept(), dtype=torch.float32, device=CPU, quantization=bits)


def test_a_model_that_is_stored_quantized_is_refused(tmp_path: Path) -> None:
    tiny.save(tiny.llama(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="stored quantized"):
        load_streamed(str(tmp_path), Kept(), dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("whole", ["input_layernorm", "mlp", "self_attn", "1", "norm", "lm_head"])
def test_what_is_trained_whole_stays_on_the_device(tmp_path: Path, whole: str) -> None:
    """Its bytes and those of every module inside of it: PEFT copies it."""
    tiny.save(tiny.llama(), tmp_path)
    common: dict[str, Any] = {"dtype": torch.float32, "device": CPU}
    gradients = []
    for model in (load_streamed(str(tmp_path), Kept(), resident=[whole], **common), load_base(str(tmp_path), **common)):
        target = "o_proj" if whole == "mlp" else "up_proj"
        adapted: Any = add_lora(model, LoraSpec(4, 8, target=[target], also=[whole]), seed=0, kernels="off")
        adapted(input_ids=torch.arange(6)[None], use_cache=False).logits.square().sum().backward()
        gradients.append([p.grad for p in adapted.parameters() if p.requires_grad])
    assert len(gradients[0]) > 2
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_model_that_is_trained_whole_is_not_loaded_in_parts(tmp_path: Path) -> None:
    tiny.save(tiny.llama(), tmp_path)
    with pytest.raises(ConfigError, match="every decoder layer completely"):
        load_streamed(str(tmp_path), Kept(), dtype=torch.float32, device=CPU, resident=["0", "1"])


PEAK = """
import sys, threading, time, torch
from pathlib import Path
sys.path[:0] = ["tests", "."]
import tiny
from qlora_fast.model.load import Quantization
from qlora_fast.model.streamed.load import load_streamed

def anonymous():
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split("RssAnon:")[1].split()[0])

class Part:
    device_bytes = 0
    shared = False
    def __init__(self): self.parts, self.largest, self.all = [], 0, 0
    def keep(self, index, flat):
        self.parts.append(flat.view(4, -1)[1].clone())
        self.largest, self.all = max(self.largest, flat.nbytes), self.all + flat.nbytes
    def fill(self, index, flat): raise AssertionError

def load(folder, source):
    bits = {"bf16": None, "nf4": Quantization(), "int8": Quantization(bits=8)}[sys.argv[3]]
    cpu = torch.device("cpu")
    load_streamed(folder, source, dtype=torch.bfloat16, device=cpu, multiple=4, quantization=bits)

small = tiny.save(tiny.llama(), Path(sys.argv[2]))
load(str(small), Part())  # the libraries' own

def peak_of(work):
    # The most memory that is in use at any time meanwhile, beyond what was before.
    before, peak, ended = anonymous(), 0, False

    def watch():
        nonlocal peak
        while not ended:
            peak = max(peak, anonymous())
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    work()
    ended = True
    thread.join()
    return peak - before

source = Part()
peak = peak_of(lambda: load(sys.argv[1], source))
print(peak, source.largest, source.all, sum(part.nbytes for part in source.parts))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("bits", ["bf16", "nf4", "int8"])
def test_loading_a_gigabyte_takes_a_layer_and_the_own_part(tmp_path: Path, bits: str) -> None:
    model = tiny.llama(
        hidden_size=2048, intermediate_size=6144, num_hidden_layers=10, num_attention_heads=16, vocab_size=16000
    )
    folder = tiny.save(model.bfloat16(), tmp_path / "model")
    assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) > 1_000_000_000
    del model
    done = subprocess.run(
        [sys.executable, "-c", PEAK, folder, tmp_path / "small", bits],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    peak, largest, everything, own = map(int, done.stdout.split())
    assert own * 4 == everything
    bound = 1.2 * largest + own
    assert peak <= bound, f"{peak / 1e6:.0f} MB, allowed are {bound / 1e6:.0f}"
    assert bits != "bf16" or peak < 0.6 * everything
