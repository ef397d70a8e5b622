"""The files of a finished run, damaged or of another shape: whatever reads them ends with one clear error, or does not need them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from qlora_fast.runs import layout
from reliability.campaigns.hostile_models import NOT_JSON
from reliability.case import Campaign, Case, no_crash, refused
from reliability.command import Ran
from reliability.world import World

COMMANDS: dict[str, Callable[[World, Path], Ran]] = {
    "compare": lambda w, h: w.run(["compare", "run", w.trained / "run"], h),
    "evaluate": lambda w, h: w.run(["evaluate", "run", "--name", "x"], h),
    "evaluate again": lambda w, h: w.run(["evaluate", "run"], h),
    "chat": lambda w, h: w.run(["chat", "run", "--prompt", "hi", "--max-new-tokens", "2"], h),
    "merge": lambda w, h: w.run(["merge", "run", "-o", "out"], h),
    "doctor": lambda w, h: w.run(["doctor", "run"], h),
    "train": lambda w, h: w.run(w.train_words("resume_from_checkpoint=true"), h),
    "train from it": lambda w, h: w.run(w.train_words("adapter_name_or_path=run", "output_dir=next", "seed=9"), h),
}
SHAPES = {
    layout.RUN: (b'{"data": 5}', b'{"identity": []}', b'{"identity": {"base_weights": 5}}'),
    layout.ALL_RESULTS: (b'{"eval_loss": "x"}', b'{"train_steps": []}', b'{"eval_loss": 1e999}', b'{"memory": 5}'),
    layout.TRAINER_STATE: (b"{}", b'{"log_history": 5}', b'{"log_history": [5]}', b'{"log_history": [{"step": "x"}]}', b'{"log_history": [{}]}'),
    layout.EVAL_SAMPLES: (b"{}\n", b'{"id": 5, "loss": "x", "tokens": 1, "accuracy": 1}\n', b'{"id": "a", "loss": 1, "tokens": 0, "accuracy": 0}\n'),
    layout.CONFIG: (b"5", b"lora_rank: x", b"lora_rank: [", b"unknown_key: 1", b"!!python/object/apply:os.system ['false']", b"a: &a [*a]"),
    layout.LOG: (b'{"step": "x"}\n', b"{}\n"),
}  # fmt: skip


def _cases(world: World) -> Iterator[Case]:
    for name, shapes in SHAPES.items():
        contents = {**NOT_JSON, **{text.decode(): text for text in shapes}}
        for what, content in contents.items():
            for command in COMMANDS:
                yield Case(f"{name}: {what.strip()}, {command}", partial(_read, world, name, content, command))


def _read(world: World, name: str, content: bytes, command: str) -> str:
    here = world.copy(world.trained)
    (here / "run" / name).write_bytes(content)
    if name == layout.LOG:
        (here / "run" / layout.TRAINER_STATE).unlink()  # without it the log is read
    ran = no_crash(COMMANDS[command](world, here))
    if command == "doctor" and ran.status == 1 and "damaged" in ran.out:
        return "named"
    return refused(ran) if ran.status else "not needed"


CAMPAIGN = Campaign("damaged-runs", _cases, 40)
