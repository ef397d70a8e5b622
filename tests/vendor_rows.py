"""Rows prepared under a vendor's chat template, and how each agrees with what transformers prints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oracle import TOKENIZER
from qlora_fast import _core
from qlora_fast.data import templates
from qlora_fast.data.dataset import open_prepared
from turn_oracle import RefusedError, Sample, Turns


@dataclass(frozen=True)
class Vendor:
    bos: str
    eos: str
    stops: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    """Control tokens that are not to be seen from the template."""


def control_tokens(chat_template: str, vendor: Vendor) -> list[str]:
    """What a vendor's tokenizer would have as tokens of their own."""
    found = re.findall(
        r"<\|[^|<>\n]{1,40}\|>|<｜[^｜]{1,40}｜>|</?think>|</?tool_\w+>|\[/?[A-Z_a-z]{3,20}\]|<sop>|</?s>|<\w+_of_\w+>",
        chat_template,
    )
    roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"] if "'<|' ~ role" in chat_template else []
    return sorted({*found, *roles, vendor.bos, vendor.eos, *vendor.stops, *vendor.tokens})


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


def prepared(
    folder: Path,
    text: str,
    vendor: Vendor,
    talks: list[dict[str, Any]],
    *,
    enable_thinking: bool = True,
    cutoff_len: int = 1_000_000,
    template: str | None = None,
) -> tuple[Any, dict[str, Any], Turns]:
    """The rows of ``talks`` under the template ``text``, or the built-in ``template``: the dataset, the core's report, and what they should be."""
    tokenizer = tokenizer_for(folder, text, vendor)
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(talk["row"]) + "\n" for talk in talks), encoding="utf-8")
    report = _core.prepare(
        {
            "data": [{"path": str(data)}],
            "tokenizer": str(tokenizer),
            "template": templates.jinja(text, vendor.stops) if template is None else templates.read(template),
            "out": str(folder / "prepared"),
            "cutoff_len": cutoff_len,
            "bos_token": vendor.bos,
            "eos_token": vendor.eos,
            "enable_thinking": enable_thinking,
        }
    )
    turns = Turns(tokenizer, text, vendor.bos, vendor.eos, vendor.stops, enable_thinking=enable_thinking)
    return open_prepared(folder / "prepared"), report, turns


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


def outcome(dataset: Any, samples: list[int] | None, oracle: Turns, talk: dict[str, Any]) -> list[str]:
    """How the samples of a row agree with what they should be; ``samples`` is None if it was dropped.

    Raises:
        AssertionError: they do not.
    """
    try:
        expected = oracle.samples(talk)
    except RefusedError:
        assert samples is None, f"a row is kept and transformers refuses it: {talk['row']}"
        return ["refused by both"]
    if samples is None:
        return ["dropped by name"]
    wanted = [sample for sample in expected if sample.learned]
    assert len(samples) == len(wanted), [s.text for s in wanted]
    ways = []
    for i, sample in zip(samples, wanted, strict=True):
        ways += [compare(dataset, i, sample, oracle), "stop added" if sample.added_stop else "stop there"]
    return ways


def outcomes(dataset: Any, report: dict[str, Any], oracle: Turns, talks: list[dict[str, Any]]) -> Iterator[str]:
    """How each row agrees; the report's counts are held to the samples."""
    rows = samples_of(dataset)
    for row, talk in enumerate(talks):
        yield from outcome(dataset, rows.get(row), oracle, talk)
    extra = sum(len(samples) - 1 for samples in rows.values())
    assert report["notices"].get("answer_in_a_sample_of_its_own", 0) == extra
    assert report["rows_kept"] == len(rows)
