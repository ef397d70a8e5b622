"""A killed run whose newest checkpoint, ``best/`` or other file is damaged in every way that happens, and some that are made up.

Natural damage: the run resumes from what is complete, and ends with the same files. Forged but consistent content (its manifest
was written again): refused with one clear error.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from qlora_fast.hub import manifest
from qlora_fast.runs import layout
from reliability.case import Campaign, Case, Failure, ended_well, no_crash, refused
from reliability.folders import difference, digest
from reliability.world import RESUME, World

Hurt = Callable[[Path], object]
"""Given the newest checkpoint."""
FILES = (
    layout.MANIFEST, layout.ADAPTER_CONFIG, layout.ADAPTER_WEIGHTS, layout.OPTIMIZER, layout.RANDOM, layout.PROGRESS,
    layout.TRAINER_STATE,
)  # fmt: skip
NEWEST, BEFORE = layout.checkpoint(6), layout.checkpoint(4)


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def replaced(path: Path, how: Callable[[Path], object]) -> None:
    """Something else in the place of a file or folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    how(path)


def before(folder: Path) -> Path:
    return folder.with_name(BEFORE)


def of_a_file(name: str) -> dict[str, Hurt]:
    return {
        "missing": lambda c: (c / name).unlink(),
        "empty": lambda c: (c / name).write_bytes(b""),
        "half": lambda c: os.truncate(c / name, (c / name).stat().st_size // 2),
        "a byte longer": lambda c: (c / name).write_bytes((c / name).read_bytes() + b"\0"),
        "first bit": lambda c: flipped(c / name, 0),
        "middle bit": lambda c: flipped(c / name, (c / name).stat().st_size // 2),
        "last bit": lambda c: flipped(c / name, -1),
        "zeros": lambda c: (c / name).write_bytes(bytes((c / name).stat().st_size)),
        "a folder": lambda c: replaced(c / name, Path.mkdir),
        "a dead link": lambda c: replaced(c / name, lambda p: p.symlink_to("/nowhere")),
    }


def rewritten(folder: Path, name: str, text: str | bytes) -> None:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


NATURAL: dict[str, Hurt] = {
    **{f"{name}: {what}": hurt for name in FILES for what, hurt in of_a_file(name).items()},
    "an empty folder": emptied,
    "only the adapter": lambda c: [(c / n).unlink() for n in FILES if "adapter" not in n],
    "no optimizer, no manifest": lambda c: [(c / n).unlink() for n in (layout.OPTIMIZER, layout.MANIFEST)],
    **{
        f"manifest {text[:30]}": partial(rewritten, name=layout.MANIFEST, text=text)
        for text in (
            "[]", "{}", "null", '{"files": []}', '{"files": {}}', '{"files": {"../../x": {"bytes": 0, "sha256": ""}}}', '"x"',
            "[" * 50_000, '{"a":' * 50_000, '{"files": {"adapter_config.json": 5}}', "\ufeff{}",
        )
    },
    "manifest not UTF-8": lambda c: rewritten(c, layout.MANIFEST, b"\xff\xfe"),
    "a file in its place": lambda c: replaced(c, lambda p: p.write_text("x")),
    "a dead link in its place": lambda c: replaced(c, lambda p: p.symlink_to("/nowhere")),
    "the checkpoint before it, under its name": lambda c: replaced(c, lambda p: shutil.copytree(before(c), p)),
    "an empty checkpoint-999": lambda c: c.with_name("checkpoint-999").mkdir(),
    "a copy as checkpoint-06": lambda c: shutil.copytree(c, c.with_name("checkpoint-06")),
    "a copy as checkpoint-99999": lambda c: shutil.copytree(c, c.with_name("checkpoint-99999")),
    "a foreign file in it": lambda c: (c / "thesis.txt").write_text("mine"),
    "the optimizer of the one before": lambda c: shutil.copy(before(c) / layout.OPTIMIZER, c),
    "all checkpoints empty": lambda c: [emptied(p) for p in c.parent.glob("checkpoint-*")],
    "all optimizers flipped": lambda c: [flipped(p / layout.OPTIMIZER, -1) for p in c.parent.glob("checkpoint-*")],
    "run.json missing": lambda c: (c.parent / layout.RUN).unlink(),
    "run.json cut": lambda c: (c.parent / layout.RUN).write_text('{"'),
    "run.json empty": lambda c: (c.parent / layout.RUN).write_text(""),
    "config.yaml rubbish": lambda c: (c.parent / layout.CONFIG).write_text("{{{{"),
    "log with rubbish": lambda c: (c.parent / layout.LOG).write_bytes((c.parent / layout.LOG).read_bytes() + b"\xff\xff{"),
    "log missing": lambda c: (c.parent / layout.LOG).unlink(),
    "best/ without weights": lambda c: (c.parent / layout.BEST / layout.ADAPTER_WEIGHTS).unlink(),
    "best/ flipped": lambda c: flipped(c.parent / layout.BEST / layout.ADAPTER_WEIGHTS, -1),
    "best/ missing": lambda c: shutil.rmtree(c.parent / layout.BEST),
    "best/ empty": lambda c: emptied(c.parent / layout.BEST),
    "best/ of another update": lambda c: replaced(c.parent / layout.BEST, lambda p: _as_best(before(c), p)),
}  # fmt: skip
REFUSED = {"run.json missing", "the checkpoint before it, under its name", "a copy as checkpoint-99999"}
"""Without run.json nothing says that the folder is a run of this program; a complete checkpoint under a wrong name is no damage."""


def _as_best(checkpoint: Path, best: Path) -> None:
    shutil.copytree(checkpoint, best)
    for name in (layout.OPTIMIZER, layout.RANDOM, layout.PROGRESS):
        (best / name).unlink()
    (best / layout.MANIFEST).unlink()
    manifest.write(best, {"update": layout.update_of(checkpoint.name)})


def progress_with(checkpoint: Path, **fields: Any) -> None:
    path = checkpoint / layout.PROGRESS
    stored = json.loads(path.read_text())
    stored["progress"].update(fields)
    path.write_text(json.dumps(stored))


def weights_with(checkpoint: Path, value: float) -> None:
    path = checkpoint / layout.ADAPTER_WEIGHTS
    tensors = load_file(path)
    tensors[min(tensors)][0, 0] = value
    save_file(tensors, path, metadata={"format": "pt"})


FORGED: dict[str, Hurt] = {
    "NaN in the adapter": lambda c: weights_with(c, float("nan")),
    "infinity in the adapter": lambda c: weights_with(c, float("inf")),
    **{f"update {n!r}": partial(progress_with, update=n) for n in (3, -1, 0, 10**9, 10**30, "x", None, 6.5, [])},
    "an unknown key": lambda c: progress_with(c, bogus=1),
    "history is text": lambda c: progress_with(c, log_history="x"),
    "progress is a list": lambda c: (c / layout.PROGRESS).write_text("[]"),
    "deep progress": lambda c: (c / layout.PROGRESS).write_text("[" * 100_000),
    "a short random state": lambda c: save_file({"rank0.cpu": torch.zeros(5, dtype=torch.uint8)}, c / layout.RANDOM),
    "no random state": lambda c: save_file({}, c / layout.RANDOM),
    "no moments": lambda c: save_file({}, c / layout.OPTIMIZER),
    "an adapter of other shapes": lambda c: save_file(
        {k: v[:1] for k, v in load_file(c / layout.ADAPTER_WEIGHTS).items()}, c / layout.ADAPTER_WEIGHTS
    ),
    "optimizer is no safetensors": lambda c: (c / layout.OPTIMIZER).write_bytes(b"\0" * 100),
}


def _cases(world: World) -> Iterator[Case]:
    for name, hurt in NATURAL.items():
        yield Case(name, partial(_natural, world, name, hurt))
    for name, hurt in FORGED.items():
        yield Case(f"forged: {name}", partial(_forged, world, hurt))


def _natural(world: World, name: str, hurt: Hurt) -> str:
    here = world.copy(world.killed)
    hurt(here / "run" / NEWEST)
    damaged = _damaged(here / "run")
    ran = no_crash(world.run(world.long_words(RESUME), here))
    if name in REFUSED:
        return refused(ran)
    ended_well(ran)
    # A checkpoint that was passed over stays as it was: evidence of what went wrong. Only those that this case damaged are
    # left out; what the run writes, and what was intact before it, must be complete and the same.
    passed_over = damaged & _damaged(here / "run")
    expected = {k: v for k, v in world.killed_whole.items() if k.split("/")[0] not in passed_over}
    found = {k: v for k, v in digest(here / "run").items() if k in expected}
    if other := difference(expected, found):
        raise Failure("not reported", f"{other}; {ran.said}")
    return "recovered"


def _damaged(run: Path) -> set[str]:
    """The names of a run's checkpoints that are damaged."""
    return {p.name for p in run.iterdir() if p.name.startswith("checkpoint-") and manifest.damage(p) is not None}


def _forged(world: World, hurt: Hurt) -> str:
    here = world.copy(world.killed)
    newest = here / "run" / NEWEST
    hurt(newest)
    (newest / layout.MANIFEST).unlink()
    manifest.write(newest)
    return refused(world.run(world.long_words(RESUME), here), NEWEST)


CAMPAIGN = Campaign("checkpoints", _cases, 24)
