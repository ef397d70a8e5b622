"""From data.json to ready to train, beside the rivals: whole processes, one run, in turns; prints a table for BENCHMARKS.md.

    python -m benches.rivals_prep --data alpaca_data.json --tokenizer FOLDER --rounds 5 [--llamafactory PYTHON]

``--llamafactory`` is the Python of an environment with LLaMA-Factory 0.9.5, which wants an older transformers::

    python -m venv lf && lf/bin/pip install llamafactory==0.9.5 transformers==5.6.0 datasets==4.0.0

Rivals start with empty caches in each round, as for new data. Ours runs five ways: for the first time
on this machine (nothing compiled, nothing remembered), with new data, on one thread, unchanged, and with the
crate ``tokenizers`` in place of the own engine. ``--before`` is the ``python`` folder of an earlier checkout with its
core built, which takes its turn between them.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent


@dataclass
class Contestant:
    """A way to prepare: ``command(scratch)`` is run with ``scratch`` empty, or as ``before`` leaves it."""

    name: str
    command: Callable[[Path], Sequence[str]]
    environment: Callable[[Path], dict[str, str]] = lambda _: {}
    before: Callable[[Path], None] | None = None
    seconds: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    rows: str = ""


def run(contestant: Contestant, scratch: Path) -> None:
    """One round: wall time of the whole process, and its peak memory (its own, not its children's)."""
    if contestant.before is not None:
        contestant.before(scratch)
    command = [str(word) for word in contestant.command(scratch)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    # Packages are compiled when they are installed; a checkout is when it first runs, unless that is forbidden.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment |= contestant.environment(scratch)
    output, errors = scratch / "stdout", scratch / "stderr"
    with output.open("wb") as out, errors.open("wb") as err:
        started = time.perf_counter()
        child = os.posix_spawn(
            command[0],
            command,
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, err.fileno(), 2)],
        )
        _, status, usage = os.wait4(child, 0)
        contestant.seconds.append(time.perf_counter() - started)
    if status != 0:
        sys.exit(f"{contestant.name} failed:\n{errors.read_text(errors='replace')[-3000:]}")
    contestant.peak_mb.append(usage.ru_maxrss / 1024)
    said = output.read_text().strip()
    report = json.loads(said if said.startswith("{\n") else said.splitlines()[-1])
    contestant.rows = f"{report.get('rows_kept', report.get('rows')):,}"


def contestants(
    data: Path, tokenizer: Path, template: str, llamafactory: str | None, before: Path | None
) -> list[Contestant]:
    def ours(scratch: Path, *more: str) -> list[str]:
        settings = [f"model_name_or_path={tokenizer}", f"template={template}", "cutoff_len=2048", *more]
        words = ["prep", str(data), *settings, "--out", str(scratch / "prepared"), "--json"]
        return [sys.executable, "-m", "qlora_fast", *words]

    # A cache of its own, which the ways that are not the first one share.
    cache = Path(tempfile.mkdtemp(prefix="rivals-cache-"))
    atexit.register(shutil.rmtree, cache, ignore_errors=True)

    def shared(_: Path) -> dict[str, str]:
        return {"XDG_CACHE_HOME": str(cache), "HOME": str(cache)}

    def empty(scratch: Path) -> dict[str, str]:
        return {"XDG_CACHE_HOME": str(scratch / "cache"), "HOME": str(scratch)}

    def once(scratch: Path) -> None:
        run(Contestant("before", ours, shared), scratch)

    found = [
        Contestant("qlora-fast, first run ever", ours, empty),
        Contestant("**qlora-fast**", ours, shared),
        Contestant("qlora-fast, one thread", lambda scratch: ours(scratch, "threads=1"), shared),
        Contestant("qlora-fast, unchanged", ours, shared, once),
        Contestant("qlora-fast, engine: tokenizers", lambda scratch: ours(scratch, "engine=tokenizers"), shared),
    ]
    if before:
        found.insert(2, Contestant("qlora-fast, before", ours, lambda _: {**shared(_), "PYTHONPATH": str(before)}))
    scripts = [("TRL (prompt-completion, bfd)", sys.executable, "trl_prep.py", "bfd")]
    if llamafactory:
        scripts.insert(0, ("LLaMA-Factory (neat_packing)", llamafactory, "llamafactory_prep.py", "neat_packing"))
        scripts.insert(1, ("LLaMA-Factory (no packing)", llamafactory, "llamafactory_prep.py", "none"))
    for name, python, script, mode in scripts:

        def command(scratch: Path, python: str = python, script: str = script, mode: str = mode) -> list[str]:
            return [python, str(HERE / "rivals" / script), str(data), str(tokenizer), str(scratch), mode]

        found.append(Contestant(name, command, empty))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with tokenizer.json")
    parser.add_argument("--llamafactory", help="the Python of LLaMA-Factory's environment")
    parser.add_argument("--template", default="qwen3", help="of ours")
    parser.add_argument("--before", type=Path, help="the folder `python` of an earlier checkout, its core built")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rival-rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="contestants whose name contains this")
    options = parser.parse_args()
    before = options.before and options.before.resolve()
    data, tokenizer = options.data.resolve(), options.tokenizer.resolve()
    chosen = contestants(data, tokenizer, options.template, options.llamafactory, before)
    chosen = [c for c in chosen if options.only.lower() in c.name.lower()]
    options.data.read_bytes()  # a warm page cache for everybody
    for turn in range(max(options.rounds, options.rival_rounds)):
        for contestant in chosen:
            limit = options.rounds if "qlora-fast" in contestant.name else options.rival_rounds
            if turn < limit:
                scratch = Path(tempfile.mkdtemp(prefix="rivals-"))
                run(contestant, scratch)
                shutil.rmtree(scratch, ignore_errors=True)
                print(f"round {turn + 1}: {contestant.name} {contestant.seconds[-1]:.2f} s", file=sys.stderr)
    reference = next((c for c in chosen if c.name == "**qlora-fast**"), chosen[0])
    print("| | wall s, median (min – max) | peak MB | rows | qlora-fast is faster by |\n|---|---|---|---|---|")
    for c in chosen:
        ratio = median(c.seconds) / median(reference.seconds)
        faster = "" if "qlora-fast" in c.name else f"**{ratio:.1f}×**"
        times = f"{median(c.seconds):.2f} ({min(c.seconds):.2f} – {max(c.seconds):.2f})"
        print(f"| {c.name} | {times} | {median(c.peak_mb):,.0f} | {c.rows} | {faster} |")


if __name__ == "__main__":
    main()
