"""The Modelfile renders what the training rendered, for every built-in template; the commands can be pasted."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from paths import FIXTURES
from qlora_fast import _core
from qlora_fast.config import Config
from qlora_fast.data.tokenizer import Tokenizer, tokenizer_of
from qlora_fast.merge import serving

FOLDER = FIXTURES / "tokenizer"
TEMPLATES = _core.templates()


def go_render(template: str, **fields: str) -> str:
    """The part of Go's templates that a Modelfile of ours uses: fields, and one `if .System`."""
    text = re.sub(r"{{ if \.System }}(.*?){{ end }}", r"\1" if fields["System"] else "", template, flags=re.DOTALL)
    return re.sub(r"{{ \.(\w+) }}", lambda m: fields[m[1]], text)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_ollama_sees_what_the_training_saw(name: str, system: str) -> None:
    tokenizer = Tokenizer(FOLDER, name, None, "<|im_end|>", "")
    try:
        encoder = tokenizer.encoder()
    except Exception as error:
        pytest.skip(f"the test tokenizer has not its control tokens: {error}")
    turns = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": "How are you?"})
    rendered = "".join(t for _, t, _ in encoder.segments(json.dumps({"messages": turns}), add_generation_prompt=True))
    made = serving.ollama_template(tokenizer)
    ours = go_render(made.template, System=system, Prompt="How are you?", Response="")
    assert ours.startswith(rendered)
    turns.append({"role": "assistant", "content": "Fine."})
    answered = "".join(t for _, t, _ in encoder.segments(json.dumps({"messages": turns})))
    assert go_render(made.template, System=system, Prompt="How are you?", Response="Fine.").endswith(
        answered[answered.index("Fine.") :]
    )


def test_the_default_system_prompt_goes_into_the_modelfile() -> None:
    chatml = Tokenizer(FOLDER, "chatml", None, "<|im_end|>", None)
    assert serving.modelfile(replace(chatml, default_system="You are Kestrel.")).splitlines() == [
        "FROM .",
        'TEMPLATE """{{ if .System }}<|im_start|>system',
        "{{ .System }}<|im_end|>",
        "{{ end }}<|im_start|>user",
        "{{ .Prompt }}<|im_end|>",
        "<|im_start|>assistant",
        "{{ .Response }}<|im_end|>",
        '"""',
        'SYSTEM """You are Kestrel."""',
        'PARAMETER stop "<|im_end|>"',
    ]
    assert "SYSTEM" not in serving.modelfile(replace(chatml, default_system="")).replace(".System", "")


def test_the_embedded_models_own_system_prompt_is_found() -> None:
    made = serving.ollama_template(tokenizer_of(Config()))
    assert made.system == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def test_commands_are_quoted_and_ranks_are_vllms(tmp_path: Path) -> None:
    words = serving.commands(tmp_path / "my model", dtype="bf16", max_len=2048)
    for line in (line for lines in words.values() for line in lines):
        assert any("my model" in word for word in shlex.split(line)), line
    assert "--max-model-len 2048" in words["vLLM"][0]
    assert "--outtype bf16" in words["llama.cpp"][0]
    assert "--max-lora-rank 16" in serving.unmerged_command("base", tmp_path / "run", 12)
