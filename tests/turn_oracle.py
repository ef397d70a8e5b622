"""The samples that a dialogue should become under any chat template, found by rendering with transformers alone.

An answer is looked at where it is the last message: there it ends with the text, and it begins where the rendering of what
stands before it, with a generation prompt, stops being a beginning of it. What the answer itself says is found by
rendering it again with other words in it. No line is shared with the core.
"""

from __future__ import annotations

import datetime
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

Talk = dict[str, Any]


class FixedDate(datetime.datetime):
    """The day that ``strftime_now`` prints in training data."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> FixedDate:
        return cls(2024, 7, 26)


class RefusedError(Exception):
    """The template takes no such dialogue."""


@dataclass
class Sample:
    text: str
    learned: list[tuple[int, int]]
    added_stop: bool = False


class Turns:
    """The samples under one template."""

    def __init__(
        self,
        tokenizer: Path,
        chat_template: str,
        bos: str,
        eos: str,
        stops: tuple[str, ...],
        *,
        enable_thinking: bool = True,
    ) -> None:
        self.plain = Tokenizer.from_file(str(tokenizer))
        self.plain.post_processor = None  # type: ignore[assignment]
        self.wrapped = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_file(str(tokenizer)), bos_token=bos, eos_token=eos
        )
        self.wrapped.chat_template = chat_template
        self.ends = {eos, *stops}
        self.always = {} if enable_thinking else {"enable_thinking": False, "thinking": False}
        added = sorted((t.content for t in self.plain.get_added_tokens_decoder().values()), key=len, reverse=True)
        self.token = re.compile("|".join(map(re.escape, added)))

    def print(self, messages: list[dict[str, Any]], tools: Any, **options: Any) -> str:
        # A list of no calls says nothing, and some templates stumble over it.
        given = [{k: v for k, v in m.items() if k != "loss" and (v or k != "tool_calls")} for m in messages]
        for message in given:
            if "tool_calls" in message:
                message["tool_calls"] = [{"type": "function", **call} for call in message["tool_calls"]]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chat_template_utils, "datetime", FixedDate)
            try:
                text = self.wrapped.apply_chat_template(
                    given, tools=tools or None, tokenize=False, **{**self.always, **options}
                )
            except Exception as error:
                raise RefusedError(str(error)) from error
        assert isinstance(text, str)
        return text

    def samples(self, talk: Talk) -> list[Sample]:
        """Shortest first."""
        try:
            self.print(talk["messages"], talk["tools"])
        except RefusedError:
            # Some templates join a call's arguments as text, as OpenAI's interface has them.
            talk = as_text(talk)
        messages, tools = talk["messages"], talk["tools"]
        open_ = [i for i, m in enumerate(messages) if m["role"] == "assistant" and m["loss"]]
        made: list[Sample] = []
        count = len(messages)
        while True:
            text = self.print(messages[:count], tools)
            spans, left = [], []
            added = False
            for i in open_:
                end = self.end(messages, tools, i, text, last=i + 1 == count)
                if end is None:
                    left.append(i)
                    continue
                spans.append((self.start(messages, tools, i, text), end))
                added |= i + 1 == count and not self.closed(messages, tools, i)
            made.append(Sample(text, spans, added))
            if not left:
                break
            open_, count = left, left[-1] + 1
        return made[::-1]

    def said(self, messages: list[dict[str, Any]], tools: Any, i: int) -> tuple[int, int]:
        """First and last character of what answer ``i`` says, in the rendering that ends with it."""
        text = self.print(messages[: i + 1], tools)
        others = [self.print([*messages[:i], changed(messages[i], mark)], tools) for mark in ("\u2603", "\u2604")]
        begin = min(common(text, other) for other in others)
        behind = min(common(text[::-1], other[::-1]) for other in others)
        return begin, len(text) - behind

    def closed(self, messages: list[dict[str, Any]], tools: Any, i: int) -> bool:
        text = self.print(messages[: i + 1], tools)
        return self.closing(text[self.said(messages, tools, i)[1] :]) is not None

    def closing(self, tail: str) -> int | None:
        """Where the first token of a tail ends that closes an answer."""
        for token in self.token.finditer(tail):
            if token[0] in self.ends or not token[0].startswith("</"):
                return token.end()
        return None

    def end(self, messages: list[dict[str, Any]], tools: Any, i: int, text: str, last: bool) -> int | None:
        alone = self.print(messages[: i + 1], tools)
        said = self.said(messages, tools, i)[1]
        stop = self.stop_before_a_prompt(messages, tools, i, alone[said:])
        if stop is not None:
            return said + stop if text.startswith(alone[: said + stop]) else None
        if last:
            return len(alone)
        closing = self.closing(alone[said:])
        if text.startswith(alone):
            if closing is not None:
                return len(alone)
            token = self.token.match(text, len(alone))
            return token.end() if token and token[0] in self.ends else None
        if closing is None or not text.startswith(alone[: said + closing]):
            return None
        # What closes the whole text, and not the turn, stands behind it: whole pieces that are equal belong to the turn.
        ours, theirs = self.pieces(alone[said:]), self.pieces(text[said:])
        equal = 0
        for a, b in zip(ours, theirs, strict=False):
            if a != b:
                break
            equal += len(a)
        return said + equal

    def stop_before_a_prompt(self, messages: list[dict[str, Any]], tools: Any, i: int, tail: str) -> int | None:
        """Where a token at which serving stops ends, if only a generation prompt follows, unasked."""
        before = self.print(messages[:i], tools)
        if before != self.print(messages[:i], tools, add_generation_prompt=True):
            return None
        stop = next((token.end() for token in self.token.finditer(tail) if token[0] in self.ends), len(tail))
        return stop if tail[stop:].strip() and before.endswith(tail[stop:]) else None

    def pieces(self, text: str) -> list[str]:
        cuts = [0, *(at for token in self.token.finditer(text) for at in token.span()), len(text)]
        return [text[a:b] for a, b in itertools.pairwise(cuts) if b > a]

    def start(self, messages: list[dict[str, Any]], tools: Any, i: int, text: str) -> int:
        whole, parts = [], []
        begin = self.said(messages, tools, i)[0]
        for thinking in (False,) if self.always else (None, False, True):
            options = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
            try:
                prompt = self.print(messages[:i], tools, add_generation_prompt=True, **options)
            except RefusedError:
                continue
            if text.startswith(prompt) and len(prompt) <= begin:
                whole.append(len(prompt))
            else:
                parts.append(min(common(text, prompt), begin))
        if whole:
            return max(whole)
        at = max(parts)
        plain = self.print(messages[:i], tools)
        prompt = self.print(messages[:i], tools, add_generation_prompt=True)[len(plain) :]
        if prompt and at < (found := text.rfind(prompt, 0, begin)):
            # The template prints what stands before otherwise as soon as there is an answer.
            return found + len(prompt)
        # Back to where no token and no word is cut.
        for token in self.token.finditer(text):
            if token.start() < at < token.end():
                return token.start()
        before = [token.end() for token in self.token.finditer(text) if token.end() <= at]
        edge = max(before[-1] if before else 0, len(plain) if text.startswith(plain) and len(plain) <= at else 0)
        if self.token.match(text, at) or at == edge:
            return at
        blank = max((m.end() for m in re.finditer(r"\s", text[edge:at])), default=0)
        return edge + blank

    def ids(self, sample: Sample) -> tuple[list[int], list[int], list[bool]]:
        """The ids of the whole text; those of its pieces, cut where learning begins and ends, and which are learned."""
        whole = self.plain.encode(sample.text, add_special_tokens=False).ids
        ids: list[int] = []
        learned: list[bool] = []
        for piece, is_learned in parts(sample):
            encoded = self.plain.encode(piece, add_special_tokens=False).ids
            ids += encoded
            learned += [is_learned] * len(encoded)
        return whole, ids, learned


def parts(sample: Sample) -> Iterator[tuple[str, bool]]:
    at = 0
    for start, end in sample.learned:
        yield sample.text[at:start], False
        yield sample.text[start:end], True
        at = end
    yield sample.text[at:], False


def common(a: str, b: str) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def changed(message: dict[str, Any], mark: str) -> dict[str, Any]:
    """The message with other words wherever it says something."""

    def other(value: Any) -> Any:
        if isinstance(value, str):
            words = re.split(r"(</?think>)", value)
            said = [n for n, word in enumerate(words) if word.strip() and not re.fullmatch(r"</?think>", word)]
            for n in {*said[:1], *said[-1:]}:
                core = words[n].strip()
                words[n] = words[n].replace(core, mark + core[1:-1] + mark if len(core) > 1 else mark)
            return "".join(words)
        if isinstance(value, dict):
            return {other(k): other(v) for k, v in value.items()}
        return [other(v) for v in value] if isinstance(value, list) else value

    made = {k: other(v) if k in ("content", "reasoning_content") else v for k, v in message.items()}
    if message.get("tool_calls"):
        made["tool_calls"] = [{**c, "function": other(c["function"])} for c in message["tool_calls"]]
        for call, old in zip(made["tool_calls"], message["tool_calls"], strict=True):
            call["function"] = {
                "name": other(old["function"]["name"]),
                "arguments": other(old["function"]["arguments"]),
            }
    return made


def as_text(talk: Talk) -> Talk:
    messages = []
    for m in talk["messages"]:
        calls = [
            {
                **c,
                "function": {**c["function"], "arguments": json.dumps(c["function"]["arguments"], ensure_ascii=False)},
            }
            for c in m.get("tool_calls") or []
        ]
        messages.append({**m, **({"tool_calls": calls} if calls else {})})
    return {**talk, "messages": messages}
