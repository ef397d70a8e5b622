"""Several configs trained one after another, each in a process of its own. No torch.

A process each, so that a run that dies (or runs out of memory) costs nothing but itself, and so that every run is exactly
the ``qlora-fast train`` that one could have typed. What a sweep has done stands in the runs' folders and nowhere else:
called again, it skips finished runs and resumes killed ones.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from qlora_fast.config import Config, load, overrides
from qlora_fast.config.keys import about
from qlora_fast.errors import ConfigError
from qlora_fast.runs import layout

State = Literal["new", "started", "finished"]


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a sweep: its config file, the settings given over it, and its folder."""

    config_file: Path
    settings: tuple[str, ...]
    output: Path

    @property
    def name(self) -> str:
        return self.output.name

    def command(self, state: State) -> list[str]:
        """The command line that trains or resumes it."""
        go_on = ("resume_from_checkpoint=true",) if state == "started" else ("resume_from_checkpoint=false",)
        own = (f"output_dir={self.output}", "overwrite_output_dir=false", *go_on)
        return [sys.executable, "-m", "qlora_fast", "train", str(self.config_file), *self.settings, *own]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a member ended: ``status`` is the exit status of its process, None if it needed none."""

    member: Member
    status: int | None

    @property
    def done(self) -> bool:
        return self.status in (None, 0)


def members(configs: Sequence[str], settings: Sequence[str], folder: Path) -> list[Member]:
    """The runs of a sweep. Every config is read now, so that a wrong word shows before the first hour and not after it.

    Raises:
        ConfigError: a config is wrong, two share a name, or a folder holds a run of other settings.
    """
    for name in ("output_dir", "overwrite_output_dir", "resume_from_checkpoint"):
        if name in overrides(settings):
            raise ConfigError(f"`{name}` is set by the sweep itself", hint="--output-dir names the folder of its runs")
    found: dict[Path, Member] = {}
    for file in map(Path, configs):
        member = Member(file, tuple(settings), folder / file.stem)
        if member.output in found:
            raise ConfigError(
                f"`{file}` and `{found[member.output].config_file}` would share the folder `{member.output}`",
                hint="rename one of the two files",
            )
        wanted = load(file, settings).config
        if (member.output / layout.CONFIG).is_file():
            _check_same(member.output, wanted)
        found[member.output] = member
    return list(found.values())


def state(member: Member) -> State:
    """Whether a member is still to be trained, was stopped in the middle, or is finished."""
    if (member.output / layout.ALL_RESULTS).is_file():
        return "finished"
    return "started" if layout.is_run(member.output) else "new"


def run(todo: Sequence[Member], tell: Callable[[Member, State, int], None] = lambda *_: None) -> list[Outcome]:
    """Train what is not finished, one after another; a run that fails is noted and the next one started.

    Args:
        tell: called with each member, its state and its place in the row before it starts.

    Raises:
        KeyboardInterrupt: Ctrl-C; the run it met has written its checkpoint.
    """
    outcomes = []
    for place, member in enumerate(todo):
        now = state(member)
        tell(member, now, place)
        outcomes.append(Outcome(member, None if now == "finished" else _train(member.command(now))))
    return outcomes


def _train(command: list[str]) -> int:
    """Run one training. A signal reaches it as well: it is waited for, so that its checkpoint is whole."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    stopped = False

    def pass_on(number: int, frame: object) -> None:
        # The terminal sends Ctrl-C to both of us; a SIGTERM comes to us alone.
        nonlocal stopped
        stopped = True
        if number == signal.SIGTERM:
            process.terminate()

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        raise KeyboardInterrupt
    return status


def _check_same(output: Path, wanted: Config) -> None:
    """Refuse to take a run of other settings for the wanted one."""
    there = asdict(load(output / layout.CONFIG).config)
    changed = [
        f"{name}: {there[name]!r} → {value!r}"
        for name, value in asdict(wanted).items()
        if about(name).affects not in ("nothing", "preparation") and there[name] != value
    ]
    if changed:
        raise ConfigError(
            f"`{output}` holds a run of other settings: " + "; ".join(changed),
            hint="give the sweep another --output-dir, or move that run away",
        )
