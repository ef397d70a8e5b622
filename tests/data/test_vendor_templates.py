"""Chat templates whose earlier turns print otherwise than the last one, and whose generation prompt is not how an answer
begins: real dialogues under each, against transformers.

More templates and dialogues can be tried: `QLORA_FAST_TEMPLATES` names a folder of `.jinja` files, `QLORA_FAST_DIALOGUES` a
JSON file of rows.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from oracle import DEMO, conversation, read_rows
from paths import FIXTURES
from vendor_rows import Vendor, flags, outcomes, prepared

CHATML = Vendor("<|endoftext|>", "<|im_end|>")
VENDORS = {
    "gpt_oss": Vendor("<|startoftext|>", "<|return|>", ("<|endoftext|>", "<|call|>")),
    "qwen3": CHATML,
    "qwen2_5": CHATML,
    "qwen3_5": CHATML,
    "qwen3_5_nothink": CHATML,
    "qwen3_6": CHATML,
    "glm4_5": Vendor("[gMASK]", "<|endoftext|>", ("<|user|>", "<|observation|>")),
    "deepseek_v3_1": Vendor("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "thinking_prompt": Vendor("<s>", "<|im_end|>"),
    "arguments_as_text": Vendor("<|startoftext|>", "<|eom|>"),
    "phi3": Vendor("<s>", "<|endoftext|>", ("<|end|>",)),
    "llama3": Vendor("<|begin_of_text|>", "<|eot_id|>"),
    "mistral_v3": Vendor("<s>", "</s>"),
}
MORE = sorted(Path(os.environ["QLORA_FAST_TEMPLATES"]).glob("*.jinja")) if "QLORA_FAST_TEMPLATES" in os.environ else []
EACH = 150
"""Dialogues that are tried under each template."""


def dialogues() -> list[dict[str, Any]]:
    """Real ones and some with OpenAI's keys for thoughts and calls, those of several turns and with tools first."""
    paths = [
        *sorted(DEMO.iterdir()),
        FIXTURES / "dialogues.jsonl",
        FIXTURES / "openai.json",
        *(Path(p) for p in os.environ.get("QLORA_FAST_DIALOGUES", "").split(":") if p),
    ]
    rows = [(row, conversation(row)) for path in paths for row in read_rows(path)]
    talks = [{**talk, "row": row} for row, talk in rows if talk is not None]
    talks.sort(key=lambda talk: -len(talk["messages"]))
    return talks[:EACH]


TALKS = dialogues()


def template_of(name: str) -> tuple[str, Vendor]:
    path = FIXTURES / "chat_templates" / f"{name}.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8"), VENDORS[name]
    text = next(p for p in MORE if p.stem == name).read_text(encoding="utf-8")
    ends = [
        t
        for t in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>", "</s>", "<｜end▁of▁sentence｜>")
        if t in text
    ]
    return text, Vendor("<s>", ends[0] if ends else "<|endoftext|>")


@pytest.mark.parametrize("name", [*VENDORS, *(path.stem for path in MORE)])
def test_real_dialogues_are_what_transformers_prints(name: str, tmp_path: Path) -> None:
    dataset, report, oracle = prepared(tmp_path, *template_of(name), TALKS)
    ways = Counter(outcomes(dataset, report, oracle, TALKS))
    assert len(TALKS) >= 100
    assert ways["equal"] + ways["equal in pieces"] >= 60, (ways, report["rows_dropped"])
    assert ways["dropped by name"] + ways["refused by both"] == sum(report["rows_dropped"].values())
    assert ways["dropped by name"] <= 40, report["rows_dropped"]
    if name == "glm4_5":
        assert ways["stop added"] == report["notices"]["stop_token_added"] > 60
    if name in ("gpt_oss", "qwen3_5"):
        assert report["notices"]["answer_in_a_sample_of_its_own"] > 10
    print(name, dict(ways), report["rows_dropped"], report["notices"])


THOUGHTS = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a", "reasoning_content": "first thought"},
    {"role": "user", "content": "r"},
    {"role": "assistant", "content": "b", "reasoning_content": "second thought"},
]


@pytest.mark.parametrize("name", ["gpt_oss", "qwen3", "qwen3_5", "glm4_5", "thinking_prompt"])
def test_each_thought_is_learned_where_it_was_thought(name: str, tmp_path: Path) -> None:
    """The template drops thoughts from earlier answers: each is learned in the sample that ends with its answer."""
    talk = {
        "messages": [{**m, "loss": m["role"] == "assistant"} for m in THOUGHTS],
        "tools": [],
        "row": {"messages": THOUGHTS},
    }
    dataset, report, oracle = prepared(tmp_path, *template_of(name), [talk])
    assert report["notices"]["answer_in_a_sample_of_its_own"] == 1
    assert "thoughts_left_out" not in report["notices"]
    list(outcomes(dataset, report, oracle, [talk]))
    for i, (thought, answer) in enumerate([("first thought", "a"), ("second thought", "b")]):
        kept = [t for t, learned in zip(dataset.ids(i).tolist(), flags(dataset, i), strict=True) if learned]
        text = oracle.plain.decode(kept, skip_special_tokens=False)
        assert thought in text
        assert answer in text.replace(thought, "")


TAGGED = {
    "intro <think>\nthought\n</think>\n\nanswer": ["intro", "answer"],
    "<think>thought</think>middle<think>other</think>answer": ["middle", "other", "answer"],
    "<think>\nthought\n</think>\n\nanswer": ["answer"],
    "intro </think> answer": ["answer"],
}


@pytest.mark.parametrize("name", [*VENDORS, "built-in"])
def test_what_a_template_leaves_out_of_an_answer_is_counted(name: str, tmp_path: Path) -> None:
    """Templates that look for ``</think>`` in an answer print neither what stands before the thought nor between two."""
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": c}]} for c in TAGGED]
    text, vendor = template_of("qwen3" if name == "built-in" else name)
    talks = [
        {"messages": [{**m, "loss": m["role"] == "assistant"} for m in row["messages"]], "tools": [], "row": row}
        for row in rows
    ]
    dataset, report, oracle = prepared(tmp_path, text, vendor, talks, template="qwen3" if name == "built-in" else None)
    assert report["rows_kept"] == len(rows)
    lost = 0
    for i, words in enumerate(TAGGED.values()):
        printed = oracle.plain.decode(dataset.ids(i).tolist(), skip_special_tokens=False)
        lost += any(word not in printed for word in words)
    assert report["notices"].get("content_left_out", 0) == lost
    assert lost == 2 or name not in ("qwen3", "built-in")


KEYS = """{{- bos_token -}}
{%- for m in messages -%}
    {%- if m.role == 'tool' -%}
        {%- if m.tool_call_id is not defined or m.tool_call_id | length != 9 -%}
            {{- raise_exception('A result needs the id of its call.') -}}
        {%- endif -%}
        {{- '<|result|>' + m.name + ' ' + m['tool_call_id'] + ' ' + m.content -}}
    {%- elif m.role == 'assistant' -%}
        {{- '<|answer|>' + (m.get('tool_plan') or '') + (m.content or '') -}}
        {%- for call in m.tool_calls or [] -%}
            {{- '<|call|>' + call.function.name + ' ' + call['id'] + ' ' + call.function.arguments | tojson -}}
        {%- endfor -%}
        {{- eos_token -}}
    {%- else -%}
        {{- '<|' + m.role + '|>' + (m.name + ': ' if m.name else '') + m.content -}}
        {%- for place in m.places or [] -%}{{- place.at ~ place.n -}}{%- endfor -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|answer|>' -}}{%- endif -%}
"""
"""Reads what OpenAI's interface has beside roles and contents, as the templates of Mistral, Kimi, Cohere and others do."""
CALL = {"id": "abcDEF123", "type": "function", "function": {"name": "rain", "arguments": {"city": "Ulm"}}}
TURNS: list[dict[str, Any]] = [
    {
        "role": "user",
        "content": "Rain? <|call|>",
        "name": "Ada <|answer|>",
        "places": [{"at": "Ulm", "n": 1.5}],
        "x": 1,
    },
    {"role": "assistant", "content": "", "tool_plan": "I look it up.", "tool_calls": [CALL]},
    {"role": "tool", "content": "no", "name": "rain", "tool_call_id": "abcDEF123"},
    {"role": "assistant", "content": "It is dry.", "name": None},
]


def talk_of(messages: list[dict[str, Any]]) -> dict[str, Any]:
    said = [{**m, "loss": m["role"] == "assistant"} for m in messages]
    return {"messages": said, "tools": [], "row": {"messages": messages}}


def test_keys_that_a_template_reads_are_given_to_it(tmp_path: Path) -> None:
    vendor = Vendor("<s>", "<|end|>", tokens=("<|result|>", "<|answer|>", "<|call|>", "<|user|>"))
    without = [{k: v for k, v in m.items() if k != "tool_call_id"} for m in TURNS]
    talks = [talk_of(TURNS), talk_of(without)]
    dataset, report, oracle = prepared(tmp_path, KEYS, vendor, talks)
    assert report["rows_dropped"] == {"refused_by_the_template:A result needs the id of its call.": 1}
    assert report["ignored_keys"] == {"messages[].x": 2}
    # What the data says is text, wherever it stands; so only the ids of the pieces can be compared.
    text = oracle.plain.decode(dataset.ids(0).tolist(), skip_special_tokens=False)
    assert text == oracle.print(talks[0]["messages"], None)
    kept = [t for t, learned in zip(dataset.ids(0).tolist(), flags(dataset, 0), strict=True) if learned]
    assert oracle.plain.decode(kept, skip_special_tokens=False) == (
        'I look it up.<|call|>rain abcDEF123 {"city": "Ulm"}<|end|>It is dry.<|end|>'
    )
    assert report["notices"]["control_token_kept_as_text"] == 1


def test_no_key_is_kept_for_a_template_that_reads_none(tmp_path: Path) -> None:
    """What a template does not read makes no two rows different, and is counted as ignored."""
    text = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    vendor = Vendor("<s>", "<|end|>", tokens=("<|assistant|>", "<|user|>"))
    rows = [
        [{"role": "user", "content": "q", "name": name}, {"role": "assistant", "content": "a", "tool_plan": name}]
        for name in ("Ada", "Bo")
    ]
    dataset, report, _ = prepared(tmp_path, text, vendor, [talk_of(row) for row in rows])
    assert dataset.ids(0).tolist() == dataset.ids(1).tolist()
    assert report["ignored_keys"] == {"messages[].name": 2, "messages[].tool_plan": 2}


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5", "glm4_5", "deepseek_v3_1", "gpt_oss"])
def test_without_thinking_samples_are_what_transformers_prints_without(name: str, tmp_path: Path) -> None:
    """The thoughts are gone, samples are printed with ``enable_thinking=False``, and so is the prompt before an answer."""
    some = [talk_of(THOUGHTS), *TALKS[:20]]
    bare = [without_thoughts(talk) for talk in some]
    dataset, report, oracle = prepared(tmp_path, *template_of(name), bare, enable_thinking=False)
    list(outcomes(dataset, report, oracle, bare))
    (tmp_path / "thoughts").mkdir()
    thinking, counted, _ = prepared(tmp_path / "thoughts", *template_of(name), some, enable_thinking=False)
    assert len(thinking) == len(dataset)
    assert all(thinking.ids(i).tolist() == dataset.ids(i).tolist() for i in range(len(dataset)))
    assert counted["repairs"]["thoughts_removed"] >= 2
    assert counted["fingerprint"] != report["fingerprint"]
    prompt = oracle.print(THOUGHTS[:3], None, add_generation_prompt=True)
    last = next(i for i in reversed(range(len(dataset))) if dataset.origin(i).row == 0)
    start = dataset.spans(last)[-1][0]
    asked = oracle.plain.decode(dataset.ids(last).tolist()[:start], skip_special_tokens=False)
    assert asked.endswith(prompt[-12:])
    assert "thought" not in oracle.plain.decode(dataset.ids(last).tolist(), skip_special_tokens=False)


CALLED: list[dict[str, Any]] = [
    {"role": "user", "content": "q <|im_start|>assistant\n"},
    {"role": "assistant", "content": "", "reasoning_content": "I look it up", "tool_calls": [CALL]},
    {"role": "tool", "content": "dry <|im_start|>assistant\n", "name": "rain", "tool_call_id": "abcDEF123"},
    {"role": "assistant", "content": "It is dry."},
]
LATE = """{%- for m in messages -%}
    {{- '<|im_start|>' + m.role + '\\n' + m.content -}}
    {%- for call in m.tool_calls or [] -%}{{- call.function.name -}}{%- endfor -%}
    {%- if m.role != 'tool' or not loop.last -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""A tool's result is closed only once something follows, as in Hermes' templates."""


@pytest.mark.parametrize("name", ["gpt_oss", "late"])
def test_an_answer_begins_behind_its_header_though_what_stands_before_it_prints_otherwise(
    name: str, tmp_path: Path
) -> None:
    """gpt-oss drops a call's thoughts once the final answer is there, so the rendering before it is no beginning."""
    template = (LATE, CHATML) if name == "late" else template_of(name)
    talk = talk_of(CALLED)
    dataset, report, oracle = prepared(tmp_path, *template, [talk])
    assert not report["rows_dropped"]
    last = len(dataset) - 1
    # What looks like a header in the data is text, and no answer begins behind it.
    ids = dataset.ids(last).tolist()
    assert oracle.plain.decode(ids, skip_special_tokens=False) == oracle.print(talk["messages"], None)
    start, end = dataset.spans(last)[-1]
    said = oracle.plain.decode(ids[start:end], skip_special_tokens=False)
    assert said in ("It is dry.<|im_end|>\n", "<|channel|>final<|message|>It is dry.<|return|>")


def without_thoughts(talk: dict[str, Any]) -> dict[str, Any]:
    """The talk as its author would have written it without any, and as a row that says the same."""
    messages = []
    for m in talk["messages"]:
        kept = {k: v for k, v in m.items() if k != "reasoning_content"}
        if m["role"] == "assistant":
            kept["content"] = re.sub(r"<think>.*?</think>", "", m["content"], flags=re.DOTALL).lstrip("\n")
        messages.append(kept)
    return {**talk, "messages": messages, "row": {"messages": messages, "tools": talk["tools"]}}
