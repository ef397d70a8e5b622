"""A template against the model's own, token by token, on the core's probe conversations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qlora_fast.data import templates

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FullTokenizer

    from qlora_fast.data.tokenizer import Tokenizer

_AROUND = 6
"""Tokens that are shown on each side of a difference."""

Tokens = list[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first token that differs, with what stands around it."""

    what: str
    position: int
    before: Tokens
    ours: Tokens
    own: Tokens


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one probe."""

    probe: str
    tokens: int
    refused: str | None = None
    """What the model's own template said, if it takes no such conversation: there is nothing to compare then."""
    difference: Difference | None = None
    note: str | None = None


def check_template(own: templates.Own, tokenizer: Tokenizer) -> list[Verdict]:
    """Compare all probes: our ids with those of the model's own text under its whole tokenizer.

    Raises:
        TokenizerError: the model has no chat template, or the template does not fit its tokenizer.
    """
    from tokenizers import Tokenizer as FullTokenizer

    encoder = tokenizer.encoder()
    full = FullTokenizer.from_file(tokenizer.file)
    verdicts = []
    for probe in templates.compare(tokenizer.template, own):
        if probe["refused"]:
            verdicts.append(Verdict(probe["probe"], 0, refused=probe["error"]))
        elif probe["ours"] is None:
            verdicts.append(Verdict(probe["probe"], 0, note=f"rows like this are dropped: {probe['error']}"))
        elif probe["own"] is None:
            what = f"the model's own cannot be rendered: {probe['error']}"
            verdicts.append(Verdict(probe["probe"], 0, difference=Difference(what, 0, [], [], [])))
        else:
            ids, _ = encoder.encode(
                probe["conversation"],
                add_generation_prompt=probe["thinking"] is not None,
                enable_thinking=bool(probe["thinking"]),
            )
            theirs = full.encode(probe["own"], add_special_tokens=False).ids
            difference, note = _first(full, ids.tolist(), theirs), None
            if difference and probe["ours"] == probe["own"] and ids.tolist()[:-1] == theirs:
                difference, note = None, "the same text; a token that ends the answer is added, the template has none"
            typed = [t.content for t in full.get_added_tokens_decoder().values() if t.content in probe["conversation"]]
            if difference and typed and probe["ours"] == probe["own"]:
                # What a conversation spells is text here; in the complete text it is a token.
                difference, note = None, f"the same text; {', '.join(typed)} in a content stays text"
            verdicts.append(Verdict(probe["probe"], len(ids), difference=difference, note=note))
    return verdicts


def _first(full: FullTokenizer, ours: list[int], own: list[int]) -> Difference | None:
    if ours == own:
        return None
    at = next((i for i, (a, b) in enumerate(zip(ours, own, strict=False)) if a != b), min(len(ours), len(own)))

    def shown(ids: list[int]) -> Tokens:
        return [(i, full.decode([i], skip_special_tokens=False)) for i in ids]

    return Difference(
        f"differs at token {at}",
        at,
        shown(ours[max(0, at - _AROUND) : at]),
        shown(ours[at : at + _AROUND]),
        shown(own[at : at + _AROUND]),
    )
