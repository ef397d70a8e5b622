"""Chat templates whose turns are parted by plain text, and generation prompts that an answer repeats: the ids are those of the
whole text, and an answer begins where its prompt ends, by the method of `turn_oracle.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qlora_fast import _core
from qlora_fast.data import templates
from vendor_rows import Vendor, flags, outcomes, prepared

EOS = "<|im_end|>"
TEXT_FRAMES = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "{{ '\n\n### Instruction:\n' + m.content }}{% else %}{{ '\n\n### Response:\n' + m.content + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\n\n### Response:\n' }}{% endif %}"
)
BLANKS = (
    "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}{{ eos_token if m.role == 'assistant' else '  ' }}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
OPENS_A_THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content if loop.last else m.content.split('</think>')[-1] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
ENDS_IN_BREAKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content }}<|im_end|>\n\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
PROMPTS_UNASKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<|quad_start|><|quad_end|>{% endif %}"
)
"""As Llama 3's first template and Command R7B's."""
PROMPTS_AS_TEXT = (
    "{% for m in messages %}{{ '### ' + m.role + ':\n' + m.content }}{{ eos_token if m.role == 'assistant' else '\n' }}"
    "{% endfor %}{{ '### assistant:\n' }}"
)
TEMPLATES = {
    "frames": TEXT_FRAMES,
    "blanks": BLANKS,
    "thought": OPENS_A_THOUGHT,
    "breaks": ENDS_IN_BREAKS,
    "unasked": PROMPTS_UNASKED,
    "unasked text": PROMPTS_AS_TEXT,
}


def talk(*contents: str, system: str = "") -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": c} for n, c in enumerate(contents)]
    given = [{"role": "system", "content": system}] * bool(system) + messages
    return {
        "messages": [{**m, "loss": m["role"] == "assistant"} for m in given],
        "tools": [],
        "row": {"messages": given},
    }


TALKS = [
    talk("Hi there", "Hello!", system="Be brief."),
    talk("Who?", "Me.", "Why?", "Because.\n\nTwo lines.", system="You are a pirate"),
    talk("2+2?", "<think>\nAdd.\n</think>\n\n4.", "3+3?", "<think>\nDouble.\n</think>\n\n6."),
    talk("Grüße 世界!", "¡Sí! 你好 👍🏽", system="Höflich — «bitte»."),
    talk("x < 3 && y", "`z`  \n", "and?", "\nyes"),
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_the_whole_text_and_answers_begin_behind_their_prompt(name: str, tmp_path: Path) -> None:
    dataset, report, oracle = prepared(tmp_path, TEMPLATES[name], Vendor("<s>", EOS), TALKS)
    ways = list(outcomes(dataset, report, oracle, TALKS))
    assert not report["rows_dropped"]
    assert set(ways) <= {"equal", "equal in pieces", "stop there"}


@pytest.mark.parametrize("name", ["unasked", "unasked text"])
def test_an_unasked_prompt_is_not_supervised(name: str, tmp_path: Path) -> None:
    dataset, _, oracle = prepared(tmp_path, TEMPLATES[name], Vendor("<s>", EOS), TALKS[1:2])
    ids = dataset.ids(0).tolist()
    answers = [oracle.plain.decode(ids[start:end], False) for start, end in dataset.spans(0)]
    assert answers == [f"Me.{EOS}", f"Because.\n\nTwo lines.{EOS}"]
    assert oracle.plain.decode(ids, False) == oracle.print(TALKS[1]["messages"], [])
    stops = (EOS,)
    encoder = _core.ChatEncoder(
        str(tmp_path / "tokenizer.json"), templates.jinja(TEMPLATES[name], stops), eos_token=EOS
    )
    assert set(encoder.stop_ids()) == {oracle.plain.token_to_id(EOS)}


CLOSES_A_THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>{{ m.reasoning_content or '' }}"
    "</think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think></think>{% endif %}"
)
"""As Hy3's and Cohere's newer ones, unless another setting asks for thoughts."""


def test_an_answer_with_a_thought_that_no_prompt_leaves_open_is_supervised_from_its_thought_on(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "2+2?"}
    said = [{"role": "assistant", "content": "4.", "reasoning_content": thought} for thought in ("Add.", "")]
    rows = [[asked, answer] for answer in said]
    talks = [
        {"messages": [{**m, "loss": m["role"] == "assistant"} for m in row], "tools": [], "row": {"messages": row}}
        for row in rows
    ]
    dataset, report, oracle = prepared(tmp_path, CLOSES_A_THOUGHT, Vendor("<s>", EOS), talks)
    assert set(outcomes(dataset, report, oracle, talks)) <= {"equal", "equal in pieces", "stop there"}
    assert report["notices"]["answer_unlike_the_prompt"] == 1
    learned = [
        oracle.plain.decode(dataset.ids(i).tolist()[slice(*dataset.spans(i)[0])], skip_special_tokens=False)
        for i in range(2)
    ]
    assert learned == [f"Add.</think>4.{EOS}\n", f"4.{EOS}\n"]


def test_a_thought_that_the_prompt_opened_is_not_supervised(tmp_path: Path) -> None:
    dataset, _, oracle = prepared(tmp_path, OPENS_A_THOUGHT, Vendor("<s>", EOS), TALKS[2:3])
    first = oracle.plain.decode(
        [i for i, f in zip(dataset.ids(0).tolist(), flags(dataset, 0), strict=True) if f], False
    )
    assert first == f"Add.\n</think>\n\n4.{EOS}\n"


def test_what_is_cut_stands_in_the_whole_sample(tmp_path: Path) -> None:
    """Tokens that reach over the border of two turns are in the pieces that truncation works with."""
    of = (TEXT_FRAMES, Vendor("<s>", EOS), TALKS[1:2])
    (tmp_path / "cut").mkdir()
    whole = prepared(tmp_path, *of)[0].ids(0).tolist()
    cut = prepared(tmp_path / "cut", *of, cutoff_len=len(whole) - 12)[0].ids(0).tolist()
    assert 0 < len(cut) <= len(whole) - 12
    assert cut == whole[: len(cut)]
