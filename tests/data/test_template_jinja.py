"""Every built-in template, written as Jinja, prints in transformers' Jinja2 what the core renders for training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

from paths import FIXTURES
from qlora_fast import _core
from qlora_fast.data import templates
from qlora_fast.data.saved_tokenizer import REPLACED, save_tokenizer
from qlora_fast.data.template_jinja import to_jinja, trained_template
from qlora_fast.data.tokenizer import Tokenizer

TOKENIZER = FIXTURES / "tokenizer" / "tokenizer.json"
BOS, EOS = "<s>", "</s>"


def own(text: str) -> templates.Own:
    return templates.Own("model", TOKENIZER, BOS, EOS, text)


@pytest.mark.parametrize("name", _core.templates())
def test_it_renders_every_probe_as_in_training(name: str) -> None:
    text = to_jinja(name, BOS, EOS)
    probes = templates.compare(name, own(text))
    assert [probe["probe"] for probe in probes if not probe["agrees"]] == []
    jinja = _compile_jinja_template(text)
    for probe in probes:
        conversation = json.loads(probe["conversation"])
        for message in conversation["messages"]:
            # As OpenAI's messages have them.
            message["tool_calls"] = [{"function": json.loads(call)} for call in message.get("tool_calls", [])]
        rendered = jinja.render(
            messages=conversation["messages"],
            tools=json.loads(conversation.get("tools") or "[]"),
            add_generation_prompt=probe["thinking"] is not None,
            enable_thinking=bool(probe["thinking"]),
            bos_token=BOS,
            eos_token=EOS,
        )
        assert rendered == probe["ours"], probe["probe"]


def test_a_default_system_prompt_is_written_into_it() -> None:
    text = to_jinja("chatml", BOS, EOS, 'It\'s \\ "quoted"\nand long')
    printed = _compile_jinja_template(text).render(messages=[{"role": "user", "content": "q"}])
    assert printed.startswith('<|im_start|>system\nIt\'s \\ "quoted"\nand long<|im_end|>\n')


def test_a_template_of_jinja_is_written_as_it_stands() -> None:
    assert to_jinja(templates.jinja("{{ messages }}"), BOS, EOS) == "{{ messages }}"


def test_the_models_own_stays_where_it_is_the_one_of_the_training(model_dir: Path, tmp_path: Path) -> None:
    same = Tokenizer(model_dir, "qwen3", None, "<|im_end|>", None)
    assert trained_template(same).text is None
    assert save_tokenizer(same, tmp_path) == []
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == json.loads(
        (model_dir / "tokenizer_config.json").read_text()
    )
    other = Tokenizer(model_dir, "llama3", None, "<|im_end|>", None)
    notes = save_tokenizer(other, tmp_path)
    assert "`llama3`" in notes[0]
    assert REPLACED in notes[0]
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (
        settings["chat_template"]
        == (tmp_path / "chat_template.jinja").read_text()
        == to_jinja("llama3", None, "<|im_end|>")
    )
    assert "im_start" in (tmp_path / REPLACED).read_text()
