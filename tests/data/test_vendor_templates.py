"""Chat templates whose earlier turns print otherwise than the last one, and whose generation prompt is not how an answer
begins: real dialogues under each, against transformers.

More templates and dialogues can be tried: `QLORA_FAST_TEMPLATES` names a folder of `.jinja` files, `QLORA_FAST_DIALOGUES` a
JSON file of rows.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from oracle import DEMO, TOKENIZER, conversation, read_rows
from paths import FIXTURES
from qlora_fast import _core
from qlora_fast.data import templates
from qlora_fast.data.dataset import open_prepared
from turn_oracle import RefusedError, Sample, Turns


@dataclass(frozen=True)
class Vendor:
    bos: str
    eos: str
    stops: tuple[str, ...] = ()


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
    """Real ones, those of several turns and with tools first."""
    paths = [
        *sorted(DEMO.iterdir()),
        FIXTURES / "dialogues.jsonl",
        *(Path(p) for p in os.environ.get("QLORA_FAST_DIALOGUES", "").split(":") if p),
    ]
    rows = [(row, conversation(row)) for path in paths for row in read_rows(path)]
    talks = [{**talk, "row": row} for row, talk in rows if talk is not None]
    talks.sort(key=lambda talk: -len(talk["messages"]))
    return talks[:EACH]


TALKS = dialogues()


def control_tokens(chat_template: str, vendor: Vendor) -> list[str]:
    """What a vendor's tokenizer would have as tokens of their own."""
    found = re.findall(
        r"<\|[^|<>\n]{1,40}\|>|<｜[^｜]{1,40}｜>|</?think>|</?tool_\w+>|\[/?[A-Z_a-z]{3,20}\]|<sop>|</?s>|<\w+_of_\w+>",
        chat_template,
    )
    roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"] if "'<|' ~ role" in chat_template else []
    return sorted({*found, *roles, vendor.bos, vendor.eos, *vendor.stops})


def tokenizer_for(folder: Path, chat_template: str, vendor: Vendor) -> Path:
    """The tests' tokenizer with the vendor's control tokens."""
    tokenizer = json.loads(TOKENIZER.read_text(encoding="utf-8"))
    known = {t["content"] for t in tokenizer["added_tokens"]}
    first = max(t["id"] for t in tokenizer["added_tokens"]) + 1
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    new = [t for t in control_tokens(chat_template, vendor) if t not in known]
    tokenizer["added_tokens"] += [{"id": first + n, "content": t, "special": True, **flags} for n, t in enumerate(new)]
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return path


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


def prepared(folder: Path, name: str, talks: list[dict[str, Any]]) -> tuple[Any, dict[str, Any], Turns]:
    text, vendor = template_of(name)
    tokenizer = tokenizer_for(folder, text, vendor)
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(talk["row"]) + "\n" for talk in talks), encoding="utf-8")
    options = {
        "data": [{"path": str(data)}],
        "tokenizer": str(tokenizer),
        "template": templates.jinja(text, vendor.stops),
        "out": str(folder / "prepared"),
        "cutoff_len": 1_000_000,
        "bos_token": vendor.bos,
        "eos_token": vendor.eos,
    }
    report = _core.prepare(options)
    return open_prepared(folder / "prepared"), report, Turns(tokenizer, text, vendor.bos, vendor.eos, vendor.stops)


def samples_of(dataset: Any) -> dict[int, list[int]]:
    """The samples of each row."""
    of: dict[int, list[int]] = {}
    for i in range(len(dataset)):
        of.setdefault(dataset.origin(i).row, []).append(i)
    return of


def flags(dataset: Any, i: int) -> list[bool]:
    learned = [False] * len(dataset.ids(i))
    for start, end in dataset.spans(i):
        learned[start:end] = [True] * (end - start)
    return learned


def compare(dataset: Any, i: int, expected: Sample, oracle: Turns) -> str:
    """How a sample agrees with the expected one: `equal` to the ids of the whole text, or of its pieces."""
    ids = dataset.ids(i).tolist()
    whole, apart, learned = oracle.ids(expected)
    if expected.added_stop:
        stop = oracle.plain.token_to_id(str(oracle.wrapped.eos_token))
        whole, apart, learned = [*whole, stop], [*apart, stop], [*learned, True]
    assert ids in (apart, whole), (oracle.plain.decode(ids, skip_special_tokens=False), expected.text)
    if ids == apart:
        assert flags(dataset, i) == [False, *learned[1:]], (expected, flags(dataset, i))
    return "equal" if ids == whole else "equal in pieces"


def outcomes(dataset: Any, report: dict[str, Any], oracle: Turns, talks: list[dict[str, Any]]) -> Iterator[str]:
    rows = samples_of(dataset)
    for row, talk in enumerate(talks):
        try:
            expected = oracle.samples(talk)
        except RefusedError:
            assert row not in rows, f"row {row} is kept and transformers refuses it"
            yield "refused by both"
            continue
        if row not in rows:
            yield "dropped by name"
            continue
        wanted = [sample for sample in expected if sample.learned]
        assert len(rows[row]) == len(wanted), (row, [s.text for s in wanted])
        for i, sample in zip(rows[row], wanted, strict=True):
            yield compare(dataset, i, sample, oracle)
            yield "stop added" if sample.added_stop else "stop there"
    extra = sum(len(samples) - 1 for samples in rows.values())
    assert report["notices"].get("answer_in_a_sample_of_its_own", 0) == extra
    assert report["rows_kept"] == len(rows)


@pytest.mark.parametrize("name", [*VENDORS, *(path.stem for path in MORE)])
def test_real_dialogues_are_what_transformers_prints(name: str, tmp_path: Path) -> None:
    dataset, report, oracle = prepared(tmp_path, name, TALKS)
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
    dataset, report, oracle = prepared(tmp_path, name, [talk])
    assert report["notices"]["answer_in_a_sample_of_its_own"] == 1
    assert "thoughts_left_out" not in report["notices"]
    list(outcomes(dataset, report, oracle, [talk]))
    for i, (thought, answer) in enumerate([("first thought", "a"), ("second thought", "b")]):
        kept = [t for t, learned in zip(dataset.ids(i).tolist(), flags(dataset, i), strict=True) if learned]
        text = oracle.plain.decode(kept, skip_special_tokens=False)
        assert thought in text
        assert answer in text.replace(thought, "")
