"""Depth and size: what overflows a stack, fills a memory, or takes without end. Made when needed, for some have 100 MB."""

from __future__ import annotations

from reliability.corpus.entry import ANSWERS, GOOD, Entry, array, lines, row

_MB = 10**6
_ROWS = b"[" + array(GOOD[0]) + b","


def _field(value: bytes) -> bytes:
    return b'[{"instruction":"a","output":"b","x":' + value + b"}]"


def _answer(text: bytes) -> bytes:
    return b'[{"instruction":"a","output":"' + text + b'"},' + array()[1:]


def _calls(arguments: bytes) -> bytes:
    call = b'{"type":"function","function":{"name":"f","arguments":"' + arguments + b'"}}'
    return (
        b'[{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"","tool_calls":[' + call + b"]}]}]"
    )


_DEPTH = (
    Entry("100 levels", _field(b"[" * 100 + b"]" * 100), "taken", answers=("b",)),
    Entry("a million levels", lambda: _field(b"[" * _MB + b"]" * _MB), "taken", answers=("b",)),
    Entry("a million levels without end", lambda: b"[" * _MB, "refused"),
    Entry("a million objects", lambda: _field(b'{"a":' * _MB + b"1" + b"}" * _MB), "taken", answers=("b",)),
    Entry(
        "100,000 levels in a line",
        lambda: _field(b"[" * 10**5 + b"]" * 10**5)[1:-1] + b"\n",
        "taken",
        "d.jsonl",
        ("b",),
    ),
    Entry(
        "100,000 levels in tools",
        lambda: (
            b'[{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}],"tools":"'
            + b"[" * 10**5
            + b"]" * 10**5
            + b'"}]'
        ),
        "taken",
        answers=("b",),
    ),
    Entry("100,000 levels in the arguments of a call", lambda: _calls(b"[" * 10**5 + b"]" * 10**5), "refused"),
)

_SIZE = (
    Entry("a key of 10 MB", lambda: b'[{"instruction":"a","output":"b","' + b"k" * 10 * _MB + b'":1}]', "taken", answers=("b",)),
    Entry("an answer of 63 MB", lambda: _answer(b"word " * (63 * 2**20 // 5)), "taken", seconds=120),
    Entry("an answer of 100 MB", lambda: _answer(b"x" * 100 * _MB), "refused", seconds=120),
    Entry(
        "an answer of 100 MB, lines",
        lambda: b'{"instruction":"a","output":"' + b"x" * 100 * _MB + b'"}\n' + lines(),
        "refused", "d.jsonl", seconds=120,
    ),
    Entry(
        "an unread field of 100 MB, lines",
        lambda: b'{"instruction":"a","output":"b","x":"' + b"x" * 100 * _MB + b'"}\n' + lines(),
        "refused", "d.jsonl", seconds=120,
    ),
    Entry("100 MB of blanks between rows", lambda: _ROWS + b" " * 100 * _MB + array(GOOD[1]) + b"]", "taken", answers=ANSWERS, seconds=120),
    Entry("a blank line of 100 MB", lambda: lines(GOOD[:1]) + b" " * 100 * _MB + b"\n" + lines(GOOD[1:]), "taken", "d.jsonl", ANSWERS, 120),
    Entry("100 million line ends", lambda: lines(GOOD[:1]) + b"\n" * 100 * _MB + lines(GOOD[1:]), "taken", "d.jsonl", ANSWERS, 120),
    Entry("a word of 20 MB", lambda: _answer(b"a" * 20 * _MB), "taken", seconds=120),
    Entry("10 MB of one emoji", lambda: _answer("\U0001f600".encode() * (10 * _MB // 4)), "taken", seconds=120),
    Entry("10 MB of letters and digits in turn", lambda: _answer(b"a1" * 5 * _MB), "taken", seconds=120),
    Entry("300,000 small rows", lambda: b"[" + b",\n".join([array(row("a", "b"))] * 300_000) + b"]", "taken", seconds=120),
    Entry("300,000 unusable rows", lambda: lines() + b'{"instruction":"a","output":3}\n' * 300_000, "drop 300000", "d.jsonl", ANSWERS, 120),
    Entry("300,000 empty objects", lambda: lines() + b"{}\n" * 300_000, "drop 300000", "d.jsonl", ANSWERS, 120),
    Entry(
        "200,000 turns",
        lambda: array([{"messages": [{"role": ("user", "assistant")[i % 2], "content": "w"} for i in range(200_000)]}]),
        "taken", seconds=120,
    ),
    Entry("a million escapes", lambda: _answer(b"\\u0041" * _MB), "taken", seconds=60),
    Entry("a million backslashes", lambda: _answer(b"\\\\" * _MB), "taken", seconds=60),
)  # fmt: skip

ENTRIES = (*_DEPTH, *_SIZE)
