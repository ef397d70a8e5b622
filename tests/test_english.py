"""Plain standard English (CONTRIBUTING.md has the terms): words and phrases that were replaced once do not come back.

Read are Markdown pages, YAML comments, and of Python and Rust the comments and the texts with a blank in them: names of
variables and keys of JSON stay what they are.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from paths import ROOT

_COUNTED = "updates|steps|rows|samples|tokens|bytes|ids|parameters|instructions|questions|lines|words"
_EACH = "epoch|second|token|row|update|step|byte|call|sample|record|parameter|line|turn|file|question"
WRONG = {
    r"mend(s|ed|ing)?": "fix, hint",
    r"foretold|foretells?": "estimated",
    r"shall": "must, will",
    r"for ever": "forever, without end",
    r"go(es|ing|ne)? on (with|from|where)": "resume, continue",
    r"(not )?to be had": "not found, available",
    r"is there and is": "exists and is",
    r"what is not so": "errors",
    r"one behind the other": "concatenated",
    r"speaks?|spoken": "is active, is written by",
    r"(fallen|falls) silent": "stopped responding",
    r"told (by|from|the user|apart)": "reported, distinguished",
    rf"({_COUNTED}) an? ({_EACH})": "per",
    r"whoever|nobody|somebody": "no user, a user",
    r"anew|afresh": "again",
    r"without a word": "without a message",
    r"in truth": "in fact",
    r"riddles?": "-",
    r"fit for training": "ready for training",
    r"(?<!there )is no (run|adapter|checkpoint|row|share|port|engine|file|folder|model|word|list|Jinja|JSON)('s)?": "is not a",
    r"as far as anybody knows": "-",
}
PATTERN = re.compile(rf"(?<![\w-])(?:{'|'.join(WRONG)})(?![\w-])", re.IGNORECASE)
EXEMPT = {
    ROOT / "CONTRIBUTING.md": "lists the words",
    ROOT / "tests" / "test_english.py": "lists the words",
}
KEYS = ('"samples an update"',)
"""Keys of JSON reports, which stay what they are."""
FOLDERS = ("python", "rust", "docs", "tests", "benches", "configs")
SUFFIXES = (".py", ".pyi", ".rs", ".md", ".yaml", ".toml")


def files() -> list[Path]:
    found = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in SUFFIXES and p.is_file()]
    skipped = ("target", "data", "fixtures", "snapshots", "corpus", "assets")
    return [
        *ROOT.glob("*.md"),
        *(p for p in found if not {*p.relative_to(ROOT).parts} & {*skipped} or p.suffix == ".py"),
    ]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of what people read."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".py", ".pyi"):
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            kind = tokenize.tok_name[token.type]
            if kind == "COMMENT" or (kind in ("STRING", "FSTRING_MIDDLE") and " " in token.string.strip()):
                # Names in the braces of an f-string are code.
                words = re.sub(r"\{[^{}\n]*\}", "{}", token.string)
                yield from enumerate(words.split("\n") if token.string not in KEYS else (), token.start[0])
    elif path.suffix == ".rs":
        for number, line in enumerate(text.split("\n"), 1):
            found = re.findall(r"(//.*)|\"((?:[^\"\\]|\\.)* (?:[^\"\\]|\\.)*)\"", line)
            yield from ((number, comment or string) for comment, string in found)
    else:
        yield from enumerate(text.split("\n"), 1)


def wrong(path: Path) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: `{found[0]}`: {line.strip()[:120]}"
        for number, line in prose(path)
        for found in PATTERN.finditer(line)
    ]


def test_words_that_were_replaced_do_not_come_back() -> None:
    found = [line for path in files() if path not in EXEMPT for line in wrong(path)]
    assert not found, "\n".join([*found, "CONTRIBUTING.md, Terminology, has better words"])


@pytest.mark.parametrize(
    "text",
    ["mended it", "updates an epoch", "Nobody knows", "goes on where it was", "one behind the other", "it shall"],
)
def test_the_pattern_finds_them(text: str) -> None:
    assert PATTERN.search(text)


@pytest.mark.parametrize("text", ["recommended", "amend", "marshalling", "an epoch", "go on", "the update"])
def test_and_leaves_other_words_alone(text: str) -> None:
    assert not PATTERN.search(text)
