"""Bytes: encodings, surrogates, control characters, line ends, and what looks like JSON but is not."""

from __future__ import annotations

import json

from reliability.corpus.entry import ANSWERS, GOOD, Entry, array, lines, raw, row

_TWO = b'{"instruction":"a","output":"%s"},{"instruction":"b","output":"good"}'


def _broken(name: str, content: bytes | str, file: str = "d.json") -> Entry:
    return Entry(name, content if isinstance(content, bytes) else content.encode(), "refused", file)


def _field(value: bytes) -> bytes:
    """A row with this value in a field that is not read."""
    return b'[{"instruction":"a","output":"b","x":' + value + b"}]"


_ENCODINGS = (
    Entry("UTF-8 with a mark, array", b"\xef\xbb\xbf" + array(), "taken", answers=ANSWERS),
    Entry("UTF-8 with a mark, lines", b"\xef\xbb\xbf" + lines(), "taken", "d.jsonl", ANSWERS),
    _broken("UTF-8 with two marks", b"\xef\xbb\xbf\xef\xbb\xbf" + array()),
    *(
        _broken(f"{name}, {'marked' if mark else 'unmarked'}", mark + json.dumps(GOOD).encode(name))
        for name, mark in (
            ("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff"), ("utf-16-le", b""), ("utf-16-be", b""),
            ("utf-32-le", b"\xff\xfe\0\0"), ("utf-32-be", b"\0\0\xfe\xff"), ("utf-32-le", b""), ("utf-32-be", b""),
        )
    ),
    Entry("UTF-7 is ASCII", array([row("+AGE-", "b")]), "taken", answers=("b",)),
    _broken("Latin-1", raw([row("café", "crème")]).encode("latin-1")),
    _broken("GB18030", raw([row("你好", "世界")]).encode("gb18030")),
    _broken("GB18030, lines", (raw(row("你好", "世界")) + "\n").encode("gb18030"), "d.jsonl"),
    _broken("Big5", raw([row("你好", "世界")]).encode("big5")),
    _broken("KOI8-R", raw([row("привет", "мир")]).encode("koi8-r")),
    _broken("Shift-JIS in an unread field", _field(b'"\x83e"')),
    _broken("CESU-8", b'[{"instruction":"a","output":"\xed\xa0\xbd\xed\xb8\x80"}]'),
    _broken("overlong", b'[{"instruction":"a","output":"\xc0\xaf"}]'),
    _broken("beyond U+10FFFF", b'[{"instruction":"a","output":"\xf4\x90\x80\x80"}]'),
    _broken("a lone continuation byte", b'[{"instruction":"a","output":"\x80"}]'),
    _broken("cut within a character", b'[{"instruction":"a","output":"\xe4\xbd"}]'),
    _broken("a wrong byte in an unread key", b'[{"instruction":"a","output":"b","\xff":1}]'),
    Entry("a mark between lines", lines(GOOD[:1]) + b"\xef\xbb\xbf" + lines(GOOD[1:]), "refused", "d.jsonl"),
    _broken("a mark between rows", b"[" + array(GOOD[0]) + b",\xef\xbb\xbf" + array(GOOD[1]) + b"]"),
    Entry("a mark in a text", raw([row("a", "\ufeffhello")]).encode(), "taken", answers=("\ufeffhello",)),
)  # fmt: skip

_CHARACTERS = (
    *(
        Entry(f"{name} in an answer", b"[" + _TWO % text + b"]", "drop 1", answers=("good",))
        for name, text in (
            ("a lone high surrogate", rb"x\ud800y"), ("a lone low surrogate", rb"x\udc00y"),
            ("a reversed pair", rb"\udc00\ud800"), ("half a pair at the end", rb"x\ud83d"), ("two high ones", rb"\ud83d\ud83d"),
        )
    ),
    Entry("a lone surrogate in an unread field", _field(rb'"\ud800"'), "taken", answers=("b",)),
    Entry("a lone surrogate in a key", b'[{"instruction":"a","output":"b","\\ud800":1}]', "refused"),
    Entry("a pair", rb'[{"instruction":"a","output":"\ud83d\ude00"}]', "taken", answers=("\U0001f600",)),
    Entry("an escaped NUL", array([row("a", "x\0y")]), "taken", answers=("x\0y",)),
    *(
        _broken(f"a raw {name} in a text", b'[{"instruction":"a","output":"x' + byte + b'y"}]')
        for name, byte in (("NUL", b"\0"), ("line feed", b"\n"), ("tab", b"\t"), ("escape", b"\x1b"), ("U+001F", b"\x1f"))
    ),
    Entry("a raw DEL in a text", b'[{"instruction":"a","output":"x\x7fy"}]', "taken", answers=("x\x7fy",)),
    _broken("NULs behind the lines", lines() + b"\0" * 4096, "d.jsonl"),
    _broken("NULs behind the array", array() + b"\0" * 4096),
    _broken("a file of NULs", b"\0" * 10_000),
    *(
        Entry(name, raw([row("a", text)]).encode(), "taken", answers=(text,))
        for name, text in (
            ("C1 characters", "\x85\x9b31m"), ("noncharacters", "x\uffff\ufdd0y"), ("bidirectional marks", "\ue000\u202eabc\u202c"),
            ("U+2028 and U+2029", "x\u2028y\u2029z\x85w"), ("zero width", "a\u200b\u2060b"), ("the last plane", "\U0010fffd"),
        )
    ),
    Entry("an escape sequence in a text", array([row("a", "\x1b[31mred\x1b[0m")]), "taken", answers=("\x1b[31mred\x1b[0m",)),
    Entry("100,000 combining marks", array([row("a", "e" + "\u0301" * 100_000)]), "taken"),
)  # fmt: skip

_LINES = (
    Entry("CRLF, lines", lines().replace(b"\n", b"\r\n"), "taken", "d.jsonl", ANSWERS),
    Entry("CR, lines", lines().replace(b"\n", b"\r"), "refused", "d.jsonl"),
    Entry("CRLF, array", json.dumps(GOOD, indent=1).replace("\n", "\r\n").encode(), "taken", answers=ANSWERS),
    Entry("CR, array", json.dumps(GOOD, indent=1).replace("\n", "\r").encode(), "taken", answers=ANSWERS),
    Entry("blank lines", b"\n\n" + lines(GOOD[:1]) + b"\n   \n\t\n" + lines(GOOD[1:]) + b"\n\n", "taken", "d.jsonl", ANSWERS),
    Entry("no last line end", lines().rstrip(b"\n"), "taken", "d.jsonl", ANSWERS),
    Entry("a form feed between lines", lines(GOOD[:1]) + b"\x0c\n" + lines(GOOD[1:]), "taken", "d.jsonl", ANSWERS),
    _broken("a vertical tab between lines", lines(GOOD[:1]) + b"\x0b\n" + lines(GOOD[1:]), "d.jsonl"),
    _broken("a no-break space between lines", lines(GOOD[:1]) + "\u00a0\n".encode() + lines(GOOD[1:]), "d.jsonl"),
    Entry("pretty objects", b"\n".join(json.dumps(r, indent=2).encode() for r in GOOD), "taken", "d.jsonl", ANSWERS),
    Entry("objects without line ends", b"".join(array(r) for r in GOOD), "refused", "d.jsonl"),
    Entry("a line that is an array", lines(GOOD[:1]) + array() + b"\n" + lines(GOOD[1:]), "drop 1", "d.jsonl", ANSWERS),
    Entry("lines that are scalars", lines(GOOD[:1]) + b'42\n"x"\nnull\ntrue\n' + lines(GOOD[1:]), "drop 4", "d.jsonl", ANSWERS),
    _broken("an array, then lines", array() + b"\n" + lines()),
    Entry("lines, then an array", lines() + array(), "drop 1", "d.jsonl", ANSWERS),
    _broken("two arrays", array() + array()),
    _broken("record separators (RFC 7464)", b"".join(b"\x1e" + array(r) + b"\n" for r in GOOD), "d.jsonl"),
)  # fmt: skip

_SYNTAX = (
    _broken("a comma behind the last row", b"[" + array(GOOD[0]) + b"," + array(GOOD[1]) + b",]"),
    _broken("a comma behind the last key", '[{"instruction":"a","output":"b",}]'),
    _broken("a comma behind each line", b",\n".join(array(r) for r in GOOD) + b"\n", "d.jsonl"),
    _broken("a line comment", b"[\n// hi\n" + array(GOOD[0]) + b"]"),
    _broken("a block comment", b"[ /* hi */ " + array(GOOD[0]) + b"]"),
    _broken("a hash comment", b"# hi\n" + lines(), "d.jsonl"),
    _broken("single quotes", "[{'instruction':'a','output':'b'}]"),
    _broken("a repr of Python", repr(GOOD)),
    _broken("keys without quotes", '[{instruction:"a",output:"b"}]'),
    _broken("an infinite value", _field(b"-Infinity")),
    _broken("NaN", _field(b"NaN")),
    _broken("NaN as the answer", '[{"instruction":"a","output":NaN}]'),
    *(
        _broken(f"{name} number", _field(text))
        for name, text in (
            ("a hexadecimal", b"0x10"), ("a leading zero in a", b"012"), ("a plus before a", b"+1"), ("a dot before a", b".5"),
            ("a dot behind a", b"1."), ("a cut exponent in a", b"1e"), ("an underscore in a", b"1_000"), ("a minus and no", b"-"),
        )
    ),
    Entry("an exponent without end", _field(b"1e999999"), "taken", answers=("b",)),
    Entry("a number of a million digits", _field(b"9" * 1_000_000), "taken", answers=("b",)),
    Entry(
        "an infinite weight of a turn",
        b'[{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","loss":1e400}]}]',
        "refused",
    ),
    _broken("a wrong escape", '[{"instruction":"a","output":"\\x41"}]'),
    _broken("a cut escape", '[{"instruction":"a","output":"\\u12G4"}]'),
    *(_broken(f"`{word.decode()}`", _field(word)) for word in (b"True", b"tru", b"None", b"undefined", b"nul")),
    _broken("a comma is missing", b"[" + array(GOOD[0]) + b" " + array(GOOD[1]) + b"]"),
    _broken("a colon is missing", '[{"instruction" "a"}]'),
    _broken("a string without end", '[{"instruction":"a","output":"b},{"instruction":"c","output":"d"}]'),
    _broken("an array without end", b"[" + array(GOOD[0]) + b"," + array(GOOD[1])),
    _broken("a bracket too many", array() + b"]"),
    _broken("cut within a row", array()[:-20]),
    _broken("the wrong bracket", _field(b"[1,2}")),
    _broken("a single object under a key", array({"data": GOOD})),
    Entry("a single pretty object", json.dumps(GOOD[0], indent=1).encode(), "taken", answers=ANSWERS[:1]),
    _broken("only a string", '"hello"'), _broken("only a number", "5"), _broken("an empty object", "{}\n"),
    _broken("an empty array", "[]"), _broken("only blanks", "   \n\t "), _broken("an empty file", b""), _broken("one bracket", "["),
    _broken("CSV", "instruction,output\na,b\n"), _broken("YAML", "- instruction: a\n  output: b\n"),
    _broken("HTML", "<!DOCTYPE html><html></html>"), _broken("a pointer of Git LFS", "version https://git-lfs.github.com/spec/v1\noid x\n"),
    _broken("a picture", b"\x89PNG\r\n\x1a\n" + bytes(100)), _broken("a pickle", b"\x80\x04\x95."),
)  # fmt: skip

ENTRIES = (*_ENCODINGS, *_CHARACTERS, *_LINES, *_SYNTAX)
