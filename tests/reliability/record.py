"""What each case came to, a line in a file as soon as it is known: a campaign can be stopped and continued."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Result:
    """One case: ``failed`` is the kind of failure or "", ``note`` how it was taken or what went wrong."""

    case: str
    failed: str
    note: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Tally:
    """All results of a campaign. ``of``: cases that there are; 0 where it is not known."""

    results: tuple[Result, ...]
    of: int

    @property
    def held(self) -> int:
        return sum(not result.failed for result in self.results)

    @property
    def failures(self) -> list[Result]:
        return [result for result in self.results if result.failed]

    @property
    def complete(self) -> bool:
        return len(self.results) == self.of > 0

    @property
    def minutes(self) -> float:
        return sum(result.seconds for result in self.results) / 60

    def ways(self) -> str:
        """How the cases were taken, by number: ``identical: 301, was complete: 4``."""
        counts = Counter(r.failed.upper() if r.failed else r.note.lstrip("0123456789 ") or r.note for r in self.results)
        return ", ".join(f"{way}: {n}" for way, n in counts.most_common())


class Record:
    """The results of one campaign on disk."""

    def __init__(self, folder: Path, campaign: str) -> None:
        self._path = folder / f"{campaign}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)

    def read(self) -> Tally:
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        values = [json.loads(line) for line in lines]
        last = {v["case"]: Result(**v) for v in values if "case" in v}
        return Tally(tuple(last.values()), next((v["of"] for v in reversed(values) if "of" in v), 0))

    def add(self, result: Result) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")

    def total(self, cases: Collection[str]) -> None:
        """Note how many cases there are now; results of cases that no longer exist are dropped.

        The file is replaced at once: whatever ends this process leaves the old one or the new one.
        """
        kept = [asdict(result) for result in self.read().results if result.case in cases]
        part = self._path.with_suffix(".part")
        part.write_text("".join(json.dumps(value) + "\n" for value in ({"of": len(cases)}, *kept)), encoding="utf-8")
        part.replace(self._path)


def sampled(names: list[str], most: int) -> set[str]:
    """So many of them, evenly spread, the first and the last among them."""
    if most >= len(names):
        return set(names)
    return {names[round(i * (len(names) - 1) / max(most - 1, 1))] for i in range(most)}


def first_lines(results: Iterable[Result], most: int) -> list[str]:
    """The first failures, a line each."""
    return [f"{r.failed}: {r.case}: {r.note}" for r in results][:most]
