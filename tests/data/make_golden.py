"""Write tests/data/golden/*.json: what transformers renders and ``tokenizers`` encodes for a few dialogues a template.

    make golden

The Rust core and its Python face are both tested against these files; nothing in them comes from qlora-fast.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from jinja2.exceptions import TemplateError

from oracle import DEMO, JINJA, TEXTS, Oracle, TextOracle, conversation, read_rows

GOLDEN = Path(__file__).parent / "golden"
Turns = list[dict[str, Any]]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "loss": True, **more}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


HAND_MADE: dict[str, Turns] = {
    "one turn": [user("What is 2+2?"), answer("4")],
    "system": [system("Be brief."), user("Hi"), answer("Hello!")],
    "two turns": [user("a"), answer("b"), user("c"), answer("d")],
    "first answer not learned": [user("a"), {**answer("b"), "loss": False}, user("c"), answer("d")],
    "greeting": [{**answer("Welcome."), "loss": False}, user("Hi"), answer("Hello!")],
    "blanks at the edges": [user("  a \n"), answer("b  "), user("c\n\n"), answer("d\n")],
    "unicode": [user("e\u0301 \u212b 中文，标点。 👩‍👩‍👧"), answer("Ωmega ١٢٣ don't İstanbul")],
    "system in the middle": [user("a"), answer("b"), system("Now in French."), user("c"), answer("d")],
    "thoughts in the content": [user("q"), answer("<think>\nhm\n</think>\n\na")],
    "thoughts apart": [user("q"), answer("a", reasoning_content="hm")],
    "earlier thoughts": [
        user("q"),
        answer("a", reasoning_content="old"),
        user("r"),
        answer("b", reasoning_content="new"),
    ],
    "to be answered": [user("q")],
}


def dialogues() -> dict[str, dict[str, Any]]:
    made = {name: {"messages": turns, "tools": []} for name, turns in HAND_MADE.items()}
    for path in sorted(DEMO.iterdir()):
        rows = sorted(read_rows(path), key=lambda row: len(json.dumps(row)))
        for number, row in enumerate(rows[:2]):
            talk = conversation(row)
            if talk is not None:
                made[f"{path.stem} {number}"] = talk
    return made


def ours(talk: dict[str, Any]) -> dict[str, Any]:
    """The dialogue in the project's own JSON."""
    messages = []
    for message in talk["messages"]:
        own = {"role": message["role"], "content": message["content"]}
        if message.get("reasoning_content"):
            own["reasoning"] = message["reasoning_content"]
        if message.get("tool_calls"):
            own["tool_calls"] = [json.dumps(c["function"], ensure_ascii=False) for c in message["tool_calls"]]
        if message.get("loss", False) != (message["role"] == "assistant"):
            own["loss"] = message["loss"]
        messages.append(own)
    tools = {"tools": json.dumps(talk["tools"], ensure_ascii=False)} if talk["tools"] else {}
    return {"messages": messages, **tools}


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for template in JINJA:
        oracle = Oracle(template)
        cases = []
        for name, talk in dialogues().items():
            if not oracle.knows(talk) or (template != "qwen3" and "<think>" in json.dumps(talk)):
                continue
            prompt = talk["messages"][-1]["role"] == "user"
            if prompt:
                text = oracle.render(talk, add_generation_prompt=True, enable_thinking=False)
                learned = [m.get("loss", False) for m in talk["messages"] if m["role"] == "assistant"]
                if any(learned):
                    continue  # spans of a dialogue that is to be answered are nobody's business
                ids, spans = oracle.plain.encode(text, add_special_tokens=False).ids, []
            else:
                expected = oracle.expect(talk)
                text, ids, spans = expected.text, expected.ids, expected.spans
            cases.append(
                {"name": name, "conversation": ours(talk), "prompt": prompt, "text": text, "ids": ids, "spans": spans}
            )
        write(template, cases)
    for template in TEXTS:
        write(template, list(text_cases(template)))


def text_cases(template: str) -> Iterator[dict[str, Any]]:
    """Dialogues of plain turns, as text; templates that refuse one (two answers in a row, …) have no case of it."""
    oracle = TextOracle(template)
    for name, talk in dialogues().items():
        roles = [m["role"] for m in talk["messages"]]
        if talk["tools"] or "tool" in roles or "reasoning_content" in json.dumps(talk) or "system" in roles[1:]:
            continue
        prompt = roles[-1] == "user"
        try:
            text = oracle.render(talk, add_generation_prompt=prompt)
        except TemplateError:
            continue
        learned = [] if prompt else oracle.learned(talk, text)
        yield {"name": name, "conversation": ours(talk), "prompt": prompt, "text": text, "learned": learned}


def write(template: str, cases: list[dict[str, Any]]) -> None:
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (GOLDEN / f"{template}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{template}: {len(cases)} cases")


if __name__ == "__main__":
    main()
