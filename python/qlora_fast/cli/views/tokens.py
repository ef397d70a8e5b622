"""Tokens as coloured text: supervised, context only, or added by the template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LEGEND = "[bold green]supervised[/]  [dim]context[/]  [yellow]template[/]  [red]│[/] token border"


def tokens(decoder: Tokenizer, ids: Sequence[int], spans: Iterable[Sequence[int]]) -> str:
    """Token ids as markup, with the borders between them; ``spans`` are the supervised ones."""
    learned = {i for start, end in spans for i in range(start, end)}
    added = decoder.get_added_tokens_decoder()
    pieces = []
    for text, first, last in _pieces(decoder, ids):
        border = "[red]│[/]" if last < len(ids) else ""
        pieces.append(styled(text, learned=first in learned, template=ids[first] in added) + border)
    return "".join(pieces)


def styled(text: str, *, learned: bool, template: bool) -> str:
    """A piece of text as markup."""
    from rich.markup import escape

    style = ("bold yellow" if learned else "yellow") if template else ("bold green" if learned else "dim")
    shown = escape(text).replace("\n", "↵\n")
    return f"[{style}]{shown}[/]"


def _pieces(decoder: Tokenizer, ids: Sequence[int]) -> list[tuple[str, int, int]]:
    """(text, first, end) of the shortest runs of tokens that are complete characters: mostly one token."""
    pieces, first = [], 0
    for end in range(1, len(ids) + 1):
        text = decoder.decode(list(ids[first:end]), skip_special_tokens=False)
        if "�" in text and end < len(ids) and end - first < 8:
            continue  # a character spread over several tokens
        pieces.append((text, first, end))
        first = end
    return pieces
