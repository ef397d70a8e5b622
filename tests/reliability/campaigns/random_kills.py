"""Training runs of several kinds, killed at random moments, up to three times each, and resumed."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from reliability.case import Campaign, Case, Failure, ended_well, no_crash
from reliability.folders import Digest, difference, digest, half_written, leftovers
from reliability.world import RESUME, World

VARIANTS = {
    "exact": ("packing=exact",),
    "none, accumulated": ("packing=none", "gradient_accumulation_steps=2"),
    "dense": ("packing=dense",),
    "bucketed": ("packing=bucketed", "eval_steps=1"),
    "by epoch": ("save_strategy=epoch", "eval_strategy=epoch", "num_train_epochs=2", "max_steps=null"),
    "DoRA": ("use_dora=true", "lr_scheduler_type=linear"),
    "noise": (
        "neftune_noise_alpha=5",
        "lr_scheduler_type=cosine_with_min_lr",
        "lr_scheduler_kwargs={min_lr_rate: 0.1}",
    ),
    "one checkpoint": ("save_total_limit=1", "compute_accuracy=true"),
}
RUNS = 13
"""Of each variant: 104 in all."""
_MOST_KILLS = 3


def _cases(world: World) -> Iterator[Case]:
    references: dict[str, tuple[Digest, float]] = {}
    draw = random.Random(0)
    for number in range(RUNS):
        for name, settings in VARIANTS.items():
            moments = [draw.uniform(0.05, 0.95) for _ in range(_MOST_KILLS)]
            yield Case(f"{name}, {number}", partial(_killed, world, references, name, settings, moments))


def _killed(
    world: World,
    references: dict[str, tuple[Digest, float]],
    name: str,
    settings: tuple[str, ...],
    moments: list[float],
) -> str:
    words = world.train_words("max_steps=8", "save_steps=3", "eval_steps=4", *settings)
    if name not in references:
        here = world.fresh()
        ran = ended_well(world.run(words, here))
        references[name] = digest(here / "run"), ran.seconds
    expected, seconds = references[name]
    here, kills = world.fresh(), 0
    for moment in moments:
        ran = _killed_after(world, words, here, moment * seconds)
        kills += ran
        words = [*words, RESUME] if RESUME not in words else words
        if half := half_written(here / "run"):
            raise Failure("half written", "; ".join(half))
        if not ran:
            break
    ended_well(world.run([*words, RESUME], here), f"after {kills} kills:")
    if other := difference(expected, digest(here / "run")):
        raise Failure("different", f"after {kills} kills: {other}")
    if left := leftovers(here):
        raise Failure("left behind", ", ".join(left))
    return f"{kills} kills"


def _killed_after(world: World, words: Sequence[str | Path], here: Path, after: float) -> bool:
    """Run the command and kill it after so many seconds; whether it was still running."""

    def alarm() -> None:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, after)

    ran = world.run(words, here, before=alarm)
    if not ran.killed:
        no_crash(ran)
        ended_well(ran, "without a kill:")
    return ran.killed


CAMPAIGN = Campaign("random-kills", _cases, 4)
