"""Training on the CPU beside other busy processes: what of the quiet speed is left, by how OpenMP threads wait.

    python -m benches.neighbours [--neighbours 0 1 2] [--ways default torch passive 2000] [--updates 3] [--rounds 3]

Every way is a process of its own that stays loaded and waits without computing; the ways take turns, on the same updates of
configs/base.yaml (the embedded model, data of the package), and a neighbour is a process that only counts. ``default`` is what
this package does, ``torch`` the OpenMP runtime's own choice, ``passive`` is ``OMP_WAIT_POLICY=passive``, a number is
``GOMP_SPINCOUNT``. Losses and gradient norms must agree between ways, as only the waiting differs: a run in
which they do not ends with exit status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

TORCHS_OWN = "300000"
"""What libgomp takes by itself."""
_COUNT = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    for _ in range(100000): pass"
"""A neighbour; it ends with the process that started it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Updates of one turn: the speed of the median one, and what was computed."""

    tokens_per_second: float
    loss: float
    grad_norm: float

    @property
    def computed(self) -> str:
        return f"loss {self.loss:.6f}, grad norm {self.grad_norm:.5f}"


class Worker:
    """A process that trains when it is told to, and sleeps otherwise."""

    def __init__(self, way: str, folder: str, settings: list[str]) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
        if way == "passive":
            environment["OMP_WAIT_POLICY"] = "passive"
        elif way != "default":
            environment["GOMP_SPINCOUNT"] = TORCHS_OWN if way == "torch" else way
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benches.neighbours", "--worker", folder, *settings],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()  # it is loaded

    def train(self, first: int, updates: int) -> Seen:
        assert self._process.stdin is not None
        print(first, updates, file=self._process.stdin, flush=True)
        return Seen(**self._answer())

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended: its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Inside, ``count`` processes keep a core each busy, or compete for one."""
    counting = [subprocess.Popen([sys.executable, "-c", _COUNT, str(os.getpid())]) for _ in range(count)]
    try:
        if counting:
            time.sleep(0.3)
        yield
    finally:
        for process in counting:
            process.kill()
        for process in counting:
            process.wait()


def work(folder: str, settings: list[str]) -> None:
    """The worker: reads ``FIRST UPDATES`` lines, makes those updates, answers with one JSON line."""
    import torch

    from qlora_fast.config import load
    from qlora_fast.model.openmp import considerate
    from qlora_fast.train.distributed import Ranks
    from qlora_fast.train.setup import Machine, set_up

    words = [f"prepared_dir={folder}/data", f"output_dir={folder}/run", *settings]
    config = load("configs/base.yaml", words).config
    setup = set_up(config, Machine.of(config, Ranks()), Ranks())
    plan, forward, adapter = setup.data.plan_of_epoch(0), setup.forward, setup.adapter

    def update(k: int) -> tuple[float, float]:
        total = torch.zeros((), dtype=torch.float64)
        for i in range(int(plan.update_offsets[k]), int(plan.update_offsets[k + 1])):
            row = setup.batches.of(plan, i)
            if row is not None:
                loss = forward.loss_sum(row)
                (loss / int(plan.supervised[k])).backward()  # type: ignore[no-untyped-call]
                adapter.collect()
                total += loss.detach()
        return float(total) / int(plan.supervised[k]), float(setup.optimizer.step(1e-4))

    update(0)
    print("{}", flush=True)
    with considerate(setup.machine.device):
        for line in sys.stdin:
            first, count = (int(word) for word in line.split())
            speeds, loss, norm = [], 0.0, 0.0
            for k in (k % len(plan.supervised) for k in range(first, first + count)):
                started = time.perf_counter()
                loss, norm = update(k)
                speeds.append(int(plan.tokens[k]) / (time.perf_counter() - started))
            seen = {"tokens_per_second": statistics.median(speeds), "loss": loss, "grad_norm": norm}
            print(json.dumps(seen), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=["default", "torch", "passive"])
    parser.add_argument("--updates", type=int, default=3, help="of a turn; the median counts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the config")
    words = parser.parse_args()
    if words.worker:
        work(words.worker, words.settings)
        return
    with tempfile.TemporaryDirectory() as folder:
        workers = {way: Worker(way, folder, words.settings) for way in words.ways}
        turns: dict[tuple[int, str], list[Seen]] = {}
        for turn in range(words.rounds):
            for count in words.neighbours:
                with neighbours(count):
                    for way, worker in workers.items():
                        seen = worker.train(1 + turn * words.updates, words.updates)
                        turns.setdefault((count, way), []).append(seen)
                        print(
                            f"round {turn + 1}, {count} busy, {way}: {seen.tokens_per_second:.0f} tok/s",
                            file=sys.stderr,
                        )
        for worker in workers.values():
            worker.end()
    for (count, way), seen in turns.items():
        speed = statistics.median(s.tokens_per_second for s in seen)
        quiet = statistics.median(s.tokens_per_second for s in turns.get((0, way), seen))
        best = max(statistics.median(s.tokens_per_second for s in turns[c, w]) for c, w in turns if c == count)
        print(
            f"{count} busy beside it  {way:<10}{speed:>6.0f} tok/s  {speed / quiet:>5.0%} of its quiet speed, "
            f"{speed / best:>5.0%} of the best way; {' '.join(f'{s.tokens_per_second:.0f}' for s in seen)}; "
            f"{seen[-1].computed}"
        )
    if other := differences(turns):
        raise SystemExit("the ways computed different things:\n" + "\n".join(other))


def differences(turns: dict[tuple[int, str], list[Seen]]) -> list[str]:
    """Turns in which not all ways computed the same, to the last digit shown; a line for each."""
    found = []
    for count in sorted({count for count, _ in turns}):
        of_ways = {way: seen for (c, way), seen in turns.items() if c == count}
        for turn, seen in enumerate(zip(*of_ways.values(), strict=True), 1):
            if len({one.computed for one in seen}) > 1:
                shown = "; ".join(f"{way}: {one.computed}" for way, one in zip(of_ways, seen, strict=True))
                found.append(f"round {turn}, {count} busy: {shown}")
    return found


if __name__ == "__main__":
    main()
