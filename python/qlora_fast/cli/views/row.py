"""A row of the data, as text or JSON: what it was read as, what the model would see, or why it would be dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qlora_fast.cli import console
from qlora_fast.cli.views import tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def as_json(look: dict[str, Any], decoder: Tokenizer) -> dict[str, Any]:
    """The row with ``input_ids``, ``labels`` and ``tokens`` as a sample has them."""
    from qlora_fast.data.dataset import IGNORE  # imports NumPy, which --help does not need

    ids, labels = look["input_ids"], [IGNORE] * len(look["input_ids"])
    for start, end in look["spans"]:
        labels[start:end] = ids[start:end]
    rest = {name: value for name, value in look.items() if name not in ("input_ids", "spans")}
    shown = [decoder.id_to_token(i) for i in ids]
    return {**rest, "input_ids": ids, "labels": labels, "tokens": shown}


def show(look: dict[str, Any], decoder: Tokenizer, cutoff_len: int) -> None:
    """The turns, notes on them, and the text. A truncated text is shown in full, then what is left of it."""
    from rich.markup import escape

    console.out_markup_line(
        f"\n[bold]row {look['row']}[/]  {escape(look['file'])}:{look['line']}  {escape(_outcome(look))}"
    )
    console.rows_out([*_turns(look), *_remarks(look, cutoff_len)])
    is_whole = look["dropped"] is None and not look["tokens_cut"]
    if look["text"] and not is_whole:
        pieces = [
            tokens.styled(piece["text"], learned=piece["learned"], template=piece["kind"] == "control")
            for piece in look["text"]
        ]
        console.out_markup("\n" + "".join(pieces))
    if look["dropped"] is None:
        console.out()
        if not is_whole:
            console.out_markup("[bold]after truncation[/]")
        console.out_markup(tokens.tokens(decoder, look["input_ids"], look["spans"]))


def _outcome(look: dict[str, Any]) -> str:
    if look["dropped"] is not None:
        return f"would be dropped: {look['dropped']['reason']}"
    learned = sum(end - start for start, end in look["spans"])
    return f"{len(look['input_ids']):,} tokens, {learned:,} supervised"


def _turns(look: dict[str, Any]) -> list[tuple[str, str]]:
    """The conversation as it was read, whatever its format; long texts are abbreviated."""
    conversation = look["conversation"]
    if conversation is None:
        return [("record", _short(" ".join(look["record"].splitlines())))]
    rows: list[tuple[str, str]] = []
    for message in conversation["messages"]:
        parts = [message.get("reasoning") and f"reasoning {message['reasoning']!r}", repr(message["content"])]
        parts += [f"call {call}" for call in message.get("tool_calls", [])]
        if "loss" in message:
            parts.append(f"(loss {int(message['loss'])})")
        rows.append((message["role"], "  ".join(_short(part) for part in parts if part)))
    if conversation.get("tools"):
        rows.append(("tools", _short(conversation["tools"])))
    return rows


def _remarks(look: dict[str, Any], cutoff_len: int) -> list[tuple[str, str]]:
    from qlora_fast.data import drop_reasons

    rows = [("repaired", str(drop_reasons.explain(name) or name)) for name in look["repairs"]]
    rows += [("note", str(drop_reasons.explain(name) or name)) for name in look["notices"]]
    rows += [("ignored", drop_reasons.shown_key(name)) for name in look["ignored_keys"]]
    if look["tokens_cut"]:
        turns = f", {look['turns_cut']:,} turns removed" if look["turns_cut"] else ""
        cut = f"{look['tokens_cut']:,} of {look['full_length']:,} tokens, with cutoff_len={cutoff_len}{turns}"
        rows.append(("truncated", cut))
    elif look["dropped"] is not None and look["full_length"]:
        rows.append(("tokens", f"{look['full_length']:,}, with cutoff_len={cutoff_len}"))
    dropped = look["dropped"]
    if dropped is not None:
        rows.append(("dropped", f"{dropped['reason']}: {dropped['what']}" if dropped["what"] else dropped["reason"]))
        if dropped["first"] is not None:
            rows.append(("first", f"{dropped['first']['file']}, row {dropped['first']['row']}"))
        if dropped["mend"]:
            rows.append(("hint", dropped["mend"]))
    return rows


def _short(text: str, most: int = 160) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
