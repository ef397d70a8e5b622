"""What the data path should do, said a second time: formats and repairs in plain Python, templates by transformers,
ids by ``tokenizers``, learned spans by looking for the answers in the rendered text.

Slow and simple on purpose; it shares no line with the Rust core.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from paths import FIXTURES

DATA = FIXTURES
TOKENIZER = DATA / "tokenizer" / "tokenizer.json"
DEMO = DATA / "demo"

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
}
ANSWERS = {
    "llama3": re.compile(r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n(.*?<\|eot_id\|>)", re.S),
    "chatml": re.compile(r"<\|im_start\|>assistant\n(?:<think>\n\n</think>\n\n)?(.*?<\|im_end\|>\n)", re.S),
}
JINJA = {"qwen3": "qwen3", "qwen": "qwen2_5", "chatml": "chatml", "smollm2": "smollm2", "llama3": "llama3"}
KNOW_TOOLS = ("qwen3", "qwen")
BOS, EOS = "<s>", "</s>"
TEXT_ANSWERS = {
    "llama2": rf" \[/INST\]( .*?{EOS})",
    "mistral": rf" \[/INST\]( .*?{EOS})",
    "mistral_v3": rf"\[/INST\]( .*?{EOS})",
    "gemma": r"<start_of_turn>model\n(.*?<end_of_turn>\n)",
    "phi3": rf"<\|assistant\|>\n(.*?<\|end\|>\n(?:{EOS}$)?)",
    "phi4": r"<\|im_start\|>assistant<\|im_sep\|>(.*?<\|im_end\|>)",
    "deepseek": rf"Assistant:( .*?{EOS})",
    "deepseek3": rf"<｜Assistant｜>(.*?{EOS})",
    "zephyr": rf"<\|assistant\|>\n(.*?{EOS}\n)",
    "vicuna": rf"ASSISTANT:( .*?{EOS})",
    "llama3_2": r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n(.*?<\|eot_id\|>)",
}
FRAMELESS = {"alpaca": f"{EOS}\n\n", "plain": f"{EOS}\n"}
"""Nothing in the text says where their answers begin; what stands behind them."""
TEXTS = (*TEXT_ANSWERS, *FRAMELESS)
"""Templates whose tokens the tests' tokenizer does not have: compared as text."""


@dataclass
class Expected:
    """The sample that a row should become."""

    text: str
    ids: list[int]
    spans: list[tuple[int, int]]
    pieces: list[tuple[str, bool]] = field(repr=False)


def read_rows(path: Path) -> list[Any]:
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def conversation(row: dict[str, Any]) -> dict[str, Any] | None:
    """The repaired dialogue as transformers takes it (with ``loss`` beside each message), or None to drop the row."""
    if "messages" in row or "conversations" in row:
        turns = [_turn(t) for t in (row["messages"] if "messages" in row else row["conversations"])]
    else:
        turns = []
        for question, answer in row.get("history") or []:
            turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        question = "\n".join(part for part in (row.get("instruction"), row.get("input")) if part)
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": row.get("output") or ""}]
    if row.get("system") and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": row["system"]})

    joined: list[dict[str, Any]] = []
    for turn in turns:
        plain = not turn.get("tool_calls") and "reasoning_content" not in turn
        last = joined[-1] if joined else {}
        same = last.get("role") == turn["role"] in ("user", "assistant") and _loss(last) == _loss(turn)
        if same and plain and not last.get("tool_calls"):
            last["content"] = "\n".join(t for t in (last["content"], turn["content"]) if t.strip())
        else:
            joined.append(turn)
    while joined and joined[-1]["role"] != "assistant":
        joined.pop()
    asked = False
    for turn in joined:
        asked = asked or turn["role"] in ("user", "tool")
        says = turn["content"].strip() or turn.get("tool_calls") or turn.get("reasoning_content")
        turn["loss"] = _loss(turn) and (turn["role"] != "assistant" or bool(asked and says))
    if not asked or not any(turn["loss"] for turn in joined):
        return None
    tools = row.get("tools") or []
    return {"messages": joined, "tools": [_offer(t) for t in (json.loads(tools) if isinstance(tools, str) else tools)]}


def _offer(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool as OpenAI's interface has it: ShareGPT files have them bare."""
    bare = "name" in tool and not {"function", "type"} & tool.keys()
    return {"type": "function", "function": tool} if bare else tool


def _loss(turn: dict[str, Any]) -> bool:
    return bool(turn.get("loss", turn["role"] == "assistant"))


def _call(function: dict[str, Any]) -> dict[str, Any]:
    """A call in a list of `tool_calls`: OpenAI's interface has the arguments as JSON in a text, templates as an object."""
    arguments = function["arguments"]
    read = json.loads(arguments) if isinstance(arguments, str) else arguments
    return {"function": {"name": function["name"], "arguments": read}}


def _turn(raw: dict[str, Any]) -> dict[str, Any]:
    name = raw.get("role") or raw["from"]
    content = raw.get("content", raw.get("value"))
    turn: dict[str, Any] = {"role": ROLES[name], "content": content or ""}
    if isinstance(content, list):
        texts = {
            kind: [p["value"] for p in content if p["type"] == kind] for kind in ("text", "reasoning", "tool_call")
        }
        turn["content"] = "".join(texts["text"])
        if texts["reasoning"]:
            turn["reasoning_content"] = "".join(texts["reasoning"])
        turn["tool_calls"] = [{"function": json.loads(call)} for call in texts["tool_call"]]
    thoughts = next((raw[key] for key in ("reasoning_content", "reasoning", "thinking") if raw.get(key)), None)
    if thoughts is not None:
        turn["reasoning_content"] = thoughts
    if raw.get("tool_calls"):
        turn["tool_calls"] = [_call(call.get("function", call)) for call in raw["tool_calls"]]
    if name == "function_call":
        calls = json.loads(content)
        turn["content"] = ""
        turn["tool_calls"] = [{"function": c} for c in (calls if isinstance(calls, list) else [calls])]
    if "loss_weight" in raw:
        turn["loss"] = raw["loss_weight"] == 1
    return turn


class TextOracle:
    """What transformers prints with one chat template, and which of it is an answer."""

    def __init__(self, template: str, jinja: Path = DATA / "chat_templates") -> None:
        self.template = template
        plain = Tokenizer.from_file(str(TOKENIZER))
        self.wrapped = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token=BOS, eos_token=EOS)
        self.wrapped.chat_template = (jinja / f"{template}.jinja").read_text(encoding="utf-8")

    def render(self, talk: dict[str, Any], **options: Any) -> str:
        messages = [{k: v for k, v in m.items() if k != "loss"} for m in talk["messages"]]
        # Llama 3.2's template prints today's date otherwise.
        text = self.wrapped.apply_chat_template(messages, tokenize=False, date_string="26 Jul 2024", **options)
        assert isinstance(text, str)
        return text

    def learned(self, talk: dict[str, Any], text: str) -> list[str]:
        said = [m for m in talk["messages"] if m["role"] == "assistant"]
        if self.template in FRAMELESS:
            return [m["content"] + FRAMELESS[self.template] for m in said if m["loss"]]
        answers = re.findall(TEXT_ANSWERS[self.template], text, re.S)
        assert len(answers) == len(said), (self.template, text)
        return [answer for answer, m in zip(answers, said, strict=True) if m["loss"]]


class Oracle:
    """Expected samples under one template and one tokenizer."""

    def __init__(self, template: str, tokenizer: Path = TOKENIZER, jinja: Path = DATA / "chat_templates") -> None:
        self.template = template
        self.plain = Tokenizer.from_file(str(tokenizer))
        self.plain.post_processor = None  # type: ignore[assignment]
        self.wrapped = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(tokenizer)))
        self.wrapped.chat_template = (jinja / f"{JINJA[template]}.jinja").read_text(encoding="utf-8")
        self.controls = [t.content for t in self.plain.get_added_tokens_decoder().values() if t.special]

    def knows(self, talk: dict[str, Any]) -> bool:
        """Whether the template has a place for all of the dialogue."""
        extra = talk["tools"] or any(m.get("tool_calls") or m["role"] == "tool" for m in talk["messages"])
        thoughts = any(m.get("reasoning_content") for m in talk["messages"])
        return (self.template in KNOW_TOOLS or not extra) and (self.template == "qwen3" or not thoughts)

    def has_lookalike(self, talk: dict[str, Any]) -> bool:
        text = json.dumps(talk, ensure_ascii=False)
        return any(c in text for c in self.controls)

    def render(self, talk: dict[str, Any], **options: bool) -> str:
        text = self.wrapped.apply_chat_template(
            [{k: v for k, v in m.items() if k != "loss"} for m in talk["messages"]],
            tools=talk["tools"] or None,
            tokenize=False,
            **options,
        )
        assert isinstance(text, str)
        return text

    def expect(self, talk: dict[str, Any]) -> Expected:
        text = self.render(talk)
        learned = [m["loss"] for m in talk["messages"] if m["role"] == "assistant"]
        answers = list(ANSWERS.get(self.template, ANSWERS["chatml"]).finditer(text))
        assert len(answers) == len(learned), "the answers of the dialogue and of the text are as many"
        chars = [answer.span(1) for answer, learn in zip(answers, learned, strict=True) if learn]
        encoding = self.plain.encode(text, add_special_tokens=False)
        inside = [any(a <= start < b for a, b in chars) for start, _ in encoding.offsets]
        return Expected(text, encoding.ids, list(_runs(inside)), list(_pieces(text, chars)))

    def in_pieces(self, expected: Expected) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and spans when text is cut where learning begins and ends, before it is encoded."""
        ids: list[int] = []
        inside: list[bool] = []
        for text, learned in expected.pieces:
            part = self.plain.encode(text, add_special_tokens=False).ids
            ids += part
            inside += [learned] * len(part)
        return ids, list(_runs(inside))


def _runs(flags: list[bool]) -> Iterator[tuple[int, int]]:
    start = None
    for i, flag in enumerate([*flags, False]):
        if flag and start is None:
            start = i
        elif not flag and start is not None:
            yield start, i
            start = None


def _pieces(text: str, chars: list[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    at = 0
    for start, end in chars:
        yield text[at:start], False
        yield text[start:end], True
        at = end
    yield text[at:], False
