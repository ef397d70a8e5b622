"""Rows: keys twice, values of the wrong type, turns in the wrong order, formats mixed."""

from __future__ import annotations

import json
from typing import Any

from reliability.corpus.entry import ANSWERS, GOOD, GOOD_CHAT, Entry, array, chat, row

GOOD_GPT = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "good"}]}


def _twice(name: str, first: str) -> Entry:
    second = json.dumps(
        GOOD_CHAT if "messages" in first else GOOD_GPT if "conversations" in first else row("c", "good")
    )
    return Entry(name, f"[{first},{second}]".encode(), "drop 1", answers=("good",))


def _wrong(name: str, bad: Any, good: Any = GOOD, answers: tuple[str, ...] = ANSWERS) -> Entry:
    """A row that cannot be used, before rows that can."""
    return Entry(name, array([bad, *good]), "drop 1", answers=answers)


def _conversation(name: str, bad: Any) -> Entry:
    good, answers = [GOOD_GPT if "conversations" in bad else GOOD_CHAT], ("good",)
    return _wrong(name, bad, good, answers)


_KEYS = (
    _twice("a key twice", '{"instruction":"a","output":"one","output":"two"}'),
    _twice("a key twice, once escaped", '{"instruction":"a","output":"one","outp\\u0075t":"two"}'),
    _twice(
        "a key of a message twice",
        '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"one","content":"two"}]}',
    ),
    _twice(
        "a role twice",
        '{"messages":[{"role":"user","role":"system","content":"a"},{"role":"assistant","content":"x"}]}',
    ),
    _twice(
        "a key of a turn twice",
        '{"conversations":[{"from":"human","value":"a","value":"b"},{"from":"gpt","value":"x"}]}',
    ),
    _twice(
        "messages twice",
        '{"messages":[],"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"x"}]}',
    ),
    Entry("an unread key twice", b'[{"instruction":"a","output":"b","x":1,"x":2}]', "taken", answers=("b",)),
    Entry("escaped keys", b'[{"instruct\\u0069on":"a","\\u006futput":"b"}]', "taken", answers=("b",)),
    Entry("an empty key", b'[{"instruction":"a","output":"b","":1}]', "taken", answers=("b",)),
    Entry("100,000 keys", array([{**GOOD[0], **{f"k{i}": i for i in range(100_000)}}]), "taken", answers=ANSWERS[:1]),
    Entry(
        "names of Python",
        array([{**GOOD[0], "__proto__": {"output": "x"}, "__class__": "os"}]),
        "taken",
        answers=ANSWERS[:1],
    ),
)

_TYPES = (
    *(
        _wrong(f"the answer is {json.dumps(v)}", row("a", v))
        for v in (None, 3, 1.5, True, ["b"], {"b": 1}, "", " \n\t ")
    ),
    *(_wrong(f"the question is {json.dumps(v)}", row(v, "x")) for v in (3, False, ["a"], {"a": 1})),
    Entry("the question is null", array([*GOOD, row(None, "x")]), "taken", answers=(*ANSWERS, "x")),
    *(_wrong(f"a row is {json.dumps(v)}", v) for v in (1, None, "x", [], {}, True, [1], {"x": 1})),
    _wrong("the history is a text", {**GOOD[0], "history": "x"}),
    _wrong("the history has triples", {**GOOD[0], "history": [["a", "b", "c"]]}),
    Entry(
        "the history has null",
        array([*GOOD, {**GOOD[0], "history": [["a", None]]}]),
        "taken",
        answers=(*ANSWERS, ANSWERS[0]),
    ),
    _wrong("the history has a number", {**GOOD[0], "history": [[1, 2]]}),
    _wrong("the system prompt is a list", {**GOOD[0], "system": ["x"]}),
    _conversation("conversations is a text", {"conversations": "x"}),
    _conversation("conversations has numbers", {"conversations": [1, 2]}),
    _conversation("conversations is empty", {"conversations": []}),
    _conversation("conversations is null", {"conversations": None}),
    Entry(
        "a turn without a value",
        array([GOOD_GPT, {"conversations": [{"from": "human"}, {"from": "gpt", "value": "x"}]}]),
        "taken",
        answers=("good", "x"),
    ),
    _conversation(
        "an unknown speaker", {"conversations": [{"from": "wizard", "value": "a"}, {"from": "gpt", "value": "x"}]}
    ),
    _conversation("only a question", {"conversations": [{"from": "human", "value": "a"}]}),
    _conversation("an unknown role", chat(("wizard", "a"), ("assistant", "b"))),
    _conversation("a role is a list", chat((["user"], "a"), ("assistant", "b"))),
    _conversation("a role is null", chat((None, "a"), ("assistant", "b"))),
    _conversation("contents are null", chat(("user", None), ("assistant", None))),
    _conversation("a content is a number", chat(("user", 5), ("assistant", "b"))),
    _conversation("messages is empty", {"messages": []}),
    _conversation("messages is an object", {"messages": {"role": "user"}}),
    _conversation("no answer", chat(("user", "a"))),
    _conversation("only a system prompt", chat(("system", "a"))),
    Entry("two formats in a file", array([GOOD[0], GOOD_CHAT]), "taken", answers=(ANSWERS[0], "good")),
)

ENTRIES = (*_KEYS, *_TYPES)
