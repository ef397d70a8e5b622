"""The hostile data corpus through ``prep``: each file has the outcome that the table says, in bounded time and memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer

from paths import FIXTURES
from qlora_fast.data.dataset import open_prepared
from reliability.case import Campaign, Case, Failure, no_crash, refused
from reliability.command import Ran
from reliability.corpus import CORPUS, Entry
from reliability.folders import leftovers
from reliability.world import World


def _cases(world: World) -> Iterator[Case]:
    tokenizer = Tokenizer.from_file(str(FIXTURES / "tokenizer" / "tokenizer.json"))
    for entry in CORPUS:
        yield Case(entry.name, partial(_outcome, world, entry, tokenizer))


def _outcome(world: World, entry: Entry, tokenizer: Tokenizer) -> str:
    here = world.fresh()
    words = [
        "prep",
        *_written(entry, here),
        f"model_name_or_path={world.model}",
        "--out",
        "out",
        "cutoff_len=256",
        "--json",
    ]
    ran = no_crash(world.run(words, here, timeout=entry.seconds))
    if left := leftovers(here):
        raise Failure("left behind", ", ".join(left))
    allowed = entry.expect.split("|")
    if ran.status != 0:
        if "refused" not in allowed:
            raise Failure("refused", ran.said)
        _plain(ran)
        return refused(ran)
    outcome = _kept(ran)
    if outcome not in allowed:
        raise Failure("taken" if "refused" in allowed else "not reported", f"{outcome} instead of {entry.expect}")
    if entry.answers is not None:
        learned = _learned(here / "out", tokenizer, len(entry.answers))
        if learned != entry.answers:
            raise Failure("not reported", f"teaches {learned!r} instead of {entry.answers!r}"[:300])
    return "taken" if outcome == "taken" else "rows dropped"


def _written(entry: Entry, here: Path) -> list[str]:
    """Write the files of an entry; the words behind ``prep``."""
    if entry.make is not None:
        return entry.make(here)
    content = entry.content if isinstance(entry.content, bytes) else entry.content()
    (here / entry.file).write_bytes(content)
    return [entry.file]


def _plain(ran: Ran) -> None:
    """Nothing of a file or of its name reaches a terminal as a control character, and no name makes a second error."""
    if (
        any(ord(c) < 32 and c != "\n" for c in ran.err)
        or sum(line.startswith("error:") for line in ran.err.splitlines()) > 1
    ):
        raise Failure("unclear", repr(ran.err[:200]))


def _kept(ran: Ran) -> str:
    dropped = sum(json.loads(ran.out)["rows_dropped"].values())
    return f"drop {dropped}" if dropped else "taken"


def _learned(folder: Path, tokenizer: Tokenizer, count: int) -> tuple[str, ...]:
    """What the first rows teach, as text without the end of the turn."""
    dataset = open_prepared(folder)
    labels = [dataset[index]["labels"] for index in range(min(count, len(dataset)))]
    texts = [tokenizer.decode([int(i) for i in row[row != -100]], skip_special_tokens=False) for row in labels]
    return tuple(text.replace("<|im_end|>", "").rstrip("\n") for text in texts)


CAMPAIGN = Campaign("hostile-data", _cases, 60)
