"""Vendors' chat templates on real dialogues, against transformers: one line a template, for docs/templates.md.

    python -m benches.vendor_templates TEMPLATES DIALOGUES... [--each 100] [--no-thinking]

``TEMPLATES`` is a folder of ``NAME.jinja``, or of model folders with a ``chat_template.jinja`` or one in their
tokenizer_config.json. What a template alone does not say may stand beside it in ``NAME.json``: ``bos``, ``eos``, ``stops`` (where serving
ends an answer), ``tokens`` (control tokens that are not to be seen in its text). ``DIALOGUES`` are data files; the calls in
them are given ids and their results the names and ids of the calls, as OpenAI's interface has them.

A row is equal if every sample of it has the ids that transformers' text has, and is supervised exactly where an independent method
(``tests/turn_oracle.py``: rendering with other words in the answer) finds the answer. Exit status 1 if one differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from oracle import conversation, read_rows
from qlora_fast.errors import DataError
from vendor_rows import Vendor, outcome, prepared, samples_of

ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|return|>",
    "<|eom|>",
    "</s>",
)
BEGINS = ("<|begin_of_text|>", "<bos>", "<BOS_TOKEN>", "<|startoftext|>", "<｜begin▁of▁sentence｜>", "<s>")


def templates(folder: Path) -> Iterator[tuple[str, str, Vendor]]:
    """Name, text and tokens of every template in the folder."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            text = own_template(path)
        elif path.suffix == ".jinja":
            text = path.read_text(encoding="utf-8")
        else:
            continue
        if text is not None:
            beside = path.with_suffix(".json") if path.is_file() else path / "vendor.json"
            yield path.stem if path.is_file() else path.name, text, vendor(text, beside)


def own_template(model: Path) -> str | None:
    """The chat template of a model's folder."""
    if (model / "chat_template.jinja").is_file():
        return (model / "chat_template.jinja").read_text(encoding="utf-8")
    config = model / "tokenizer_config.json"
    found = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    return found if isinstance(found, str) else None


def vendor(text: str, beside: Path) -> Vendor:
    """What the file says, and where it says nothing, the first usual token that stands in the template."""
    said = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    return Vendor(
        bos=said.get("bos") or next((t for t in BEGINS if t in text), "<s>"),
        eos=said.get("eos") or next((t for t in ENDS if t in text), "<|endoftext|>"),
        stops=tuple(said.get("stops", ())),
        tokens=tuple(said.get("tokens", ())),
    )


def dialogues(paths: list[Path], each: int) -> list[dict[str, Any]]:
    """As many of every file, those of several turns first."""
    talks = []
    for path in paths:
        found = [(row, talk) for row in read_rows(path) if (talk := conversation(row)) is not None]
        found.sort(key=lambda pair: -min(len(pair[1]["messages"]), 12))
        talks += [with_ids(talk) for _, talk in found[: -(-each // len(paths))]]
    return talks[:each]


def with_ids(talk: dict[str, Any]) -> dict[str, Any]:
    """The dialogue as OpenAI's interface has it: calls with ids, results with the id and the name of their call."""
    messages: list[dict[str, Any]] = []
    open_calls: list[dict[str, Any]] = []
    for n, message in enumerate(talk["messages"]):
        made = dict(message)
        if made.get("tool_calls"):
            made["tool_calls"] = [{"id": f"call{n:03}{i:02}", **c} for i, c in enumerate(made["tool_calls"])]
            open_calls = list(made["tool_calls"])
        elif made["role"] == "tool" and open_calls:
            call = open_calls.pop(0)
            made.update(tool_call_id=call["id"], name=call["function"]["name"])
        messages.append({k: v for k, v in made.items() if v or k in ("content", "loss")})
    return {"messages": messages, "tools": talk["tools"], "row": {"messages": messages, "tools": talk["tools"]}}


def line(name: str, text: str, of: Vendor, talks: list[dict[str, Any]], enable_thinking: bool) -> tuple[str, bool]:
    """A row of the table, and whether everything in it is equal."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            dataset, report, oracle = prepared(Path(scratch), text, of, talks, enable_thinking=enable_thinking)
        except DataError as error:
            return f"| {name} | {len(talks)} | refused whole: {error} |", False
        rows = samples_of(dataset)
        ways: Counter[str] = Counter()
        differs = []
        for n, talk in enumerate(talks):
            try:
                found = outcome(dataset, rows.get(n), oracle, talk)
            except AssertionError as error:
                differs.append(f"row {n}: {str(error)[:400]}")
                continue
            ways[found[0] if len(found) == 1 else "equal"] += 1
            ways["samples"] += len(found) // 2
        dropped = ", ".join(f"{count} {reason}" for reason, count in report["rows_dropped"].items())
    both = ways["refused by both"]
    ours = f"{ways['dropped by name']} dropped here alone, " if ways["dropped by name"] else ""
    lines = [
        f"| {name} | {len(talks)} | {ways['equal']} | {ways['samples']} | {both} | {ours}{dropped} | {len(differs)} |"
    ]
    return "\n".join([*lines, *differs]), not differs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("templates", type=Path)
    parser.add_argument("dialogues", type=Path, nargs="+")
    parser.add_argument("--each", type=int, default=100, help="dialogues that are tried under each template")
    parser.add_argument("--no-thinking", action="store_true", help="prepare with enable_thinking: false")
    given = parser.parse_args()
    talks = dialogues(given.dialogues, given.each)
    print(
        "| template | rows | equal | samples | refused by both | dropped | different |\n|---|---|---|---|---|---|---|"
    )
    equal = True
    for name, text, of in templates(given.templates):
        shown, same = line(name, text, of, talks, not given.no_thinking)
        print(shown, flush=True)
        equal &= same
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
