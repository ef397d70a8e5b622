"""qlora-fast beside Unsloth, Axolotl, LLaMA-Factory and the stock Trainer, as far as they are installed.

    python -m benches.gpu.rivals --model Qwen3-0.6B/ --data alpaca.json [--updates 15] [--samples 32] [--only NAME …]

The same model, rows, adapter, rate and samples per optimizer step for all; each in a process of its own. Tokens are those
of the rows as our preparation counts them, prompt and answer, pads never; of each run the first updates are left out, which
load and compile. A speed never stands without the loss beside it: who learns something else has no speed. What is not
installed is named. No figure of this has been measured on a GPU yet.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from benches.gpu.rival_runs import RUNS, Task, prepared

ROOT = Path(__file__).parents[2]
OURS = next(iter(RUNS))
"""The run that all others are compared with."""
VOID_BEYOND = 0.05
"""Relative difference of the mean loss beyond which a rival trains something else. Orders and templates differ a little."""


@dataclass(slots=True)
class Curve:
    """What a run showed, one entry per update. ``ends``: seconds at its end."""

    ends: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Curve:
        """From the lines of :class:`benches.gpu.rival_watch.Watch`; what is not one is passed over."""
        curve = cls()
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                found = json.loads(line)
            except ValueError:
                continue  # cut off where the run was stopped
            if "end" in found:
                curve.ends.append(float(found["end"]))
            elif "loss" in found:
                curve.loss.append(float(found["loss"]))
                curve.grad_norm.append(float(found["grad_norm"]))
        return curve

    def speed(self, tokens: float, warm_up: int) -> float | None:
        """Tokens per second behind the first ``warm_up`` updates; None where there are too few.

        Args:
            tokens: per update, on average.
        """
        if len(self.ends) < warm_up + 1:
            return None
        return tokens * (len(self.ends) - warm_up) / max(self.ends[-1] - self.ends[warm_up - 1], 1e-9)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run, or why there is none."""

    name: str
    curve: Curve | None
    why: str = ""


def line(outcome: Outcome, ours: Curve | None, tokens: float, warm_up: int) -> str:
    """A row of the table."""
    curve = outcome.curve
    speed = None if curve is None else curve.speed(tokens, warm_up)
    if curve is None or speed is None or not curve.loss:
        why = outcome.why or f"only {0 if curve is None else len(curve.ends)} updates"
        return f"| {outcome.name} | not measured: {why} | | | |"
    loss, norm = statistics.mean(curve.loss), statistics.mean(curve.grad_norm)
    cells = [f"{speed:,.0f}", "not compared", f"{loss:.4f}", f"{norm:.4f}"]
    if ours is not None and ours.loss and (own := ours.speed(tokens, warm_up)) is not None:
        expected = statistics.mean(ours.loss)
        off = abs(loss - expected) / max(abs(expected), 1e-9)
        cells[1] = f"{speed / own:.2f}"
        if not off <= VOID_BEYOND:
            cells[:2] = ["void", f"loss off by {off:.0%}"]
    return f"| {outcome.name} | {' | '.join(cells)} |"


def table(outcomes: list[Outcome], tokens: float, warm_up: int) -> str:
    """All rows; without a run of :data:`OURS` among them nothing is compared."""
    head = ["| run | real tokens/s | × ours | mean loss | mean grad norm |", "|---|---|---|---|---|"]
    ours = next((outcome.curve for outcome in outcomes if outcome.name == OURS), None)
    return "\n".join([*head, *(line(outcome, ours, tokens, warm_up) for outcome in outcomes)])


def measured(name: str, task: Task, seconds: float) -> Outcome:
    """Run one in its process."""
    package = RUNS[name][0]
    if importlib.util.find_spec(package) is None:
        return Outcome(name, None, f"{package} is not installed")
    own = Path(task.folder) / package
    own.mkdir()
    task = replace(task, folder=str(own), curve=str(own / "curve.jsonl"))
    task.write(own / "task.json")
    paths = [str(ROOT / "python"), str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    command = [sys.executable, "-m", "benches.gpu.rival_runs", name, str(own / "task.json")]
    why = ""
    try:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
        )
        if done.returncode:
            why = f"exit status {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1][:160]}"
    except subprocess.TimeoutExpired:
        why = f"stopped after {seconds:.0f} s"
    return Outcome(name, None if why else Curve.read(Path(task.curve)), why)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder with weights and tokenizer")
    parser.add_argument("--data", type=Path, required=True, help="an Alpaca file")
    parser.add_argument("--updates", type=int, default=15)
    parser.add_argument("--warm-up", type=int, default=3, help="updates that are left out of the speed")
    parser.add_argument("--samples", type=int, default=32, help="of an optimizer step")
    parser.add_argument("--batch", type=int, default=4, help="samples of a padded micro-batch")
    parser.add_argument("--cutoff", type=int, default=1024)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--template", default="qwen3")
    parser.add_argument("--fp32", action="store_true", help="instead of bf16")
    parser.add_argument("--seconds", type=float, default=600, help="for each run")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    words = parser.parse_args()
    if not 1 <= words.warm_up < words.updates:
        parser.error("--warm-up is at least 1 and less than --updates")
    if words.samples % words.batch:
        parser.error("--samples is a multiple of --batch")
    with tempfile.TemporaryDirectory() as folder:
        rows = json.loads(words.data.read_text(encoding="utf-8"))[: words.updates * words.samples]
        if len(rows) < words.updates * words.samples:
            parser.error(f"{words.data} has {len(rows):,} rows; {words.updates * words.samples:,} are needed")
        data = Path(folder) / "data.json"
        data.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        task = Task(
            str(Path(words.model).resolve()), str(data), folder, "", words.updates, words.samples, words.batch, words.cutoff,
            words.rank, words.rate, words.template, bf16=not words.fp32,
        )  # fmt: skip
        tokens = float(prepared(task).lengths.sum()) / words.updates
        outcomes = []
        for name in RUNS:
            if name in words.only:
                print(f"{name} …", file=sys.stderr, flush=True)
                outcomes.append(measured(name, task, words.seconds))
    print(table(outcomes, tokens, words.warm_up), flush=True)


if __name__ == "__main__":
    main()
