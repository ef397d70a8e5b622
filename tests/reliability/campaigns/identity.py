"""A run is resumed while something that its result depends on has changed: refused, and the field is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from safetensors.torch import load_file, save_file

from qlora_fast.runs import layout
from reliability.case import Campaign, Case, ended_well, refused
from reliability.command import Ran
from reliability.world import RESUME, World

SETTINGS = (
    "learning_rate=1e-3", "seed=7", "lora_rank=8", "lora_dropout=0", "lora_alpha=3", "cutoff_len=48", "per_device_train_batch_size=2",
    "gradient_accumulation_steps=2", "lr_scheduler_type=linear", "max_steps=8", "num_train_epochs=9", "packing=none",
    "template=chatml", "dtype=bf16", "lora_target=q_proj", "warmup_steps=1", "weight_decay=0.1", "max_grad_norm=0.1", "val_size=5",
    "neftune_noise_alpha=5", "adam_beta1=0.8", "default_system=hi", "use_rslora=true", "use_dora=true",
    "max_samples=19", "train_on_prompt=true",
)  # fmt: skip
"""Each of them changes what is trained."""
NAMED = dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps"), "samples_per_update")
"""What a run is told of them: only what they come to counts."""
HARMLESS = (
    "logging_steps=2",
    "eval_steps=1",
    "save_steps=1",
    "save_total_limit=3",
    "plot_loss=true",
    "max_tokens_per_row=128",
)
"""These do not, and are free to change."""


def edited(path: Path, *, keep_times: bool = False, **fields: object) -> None:
    """Other values in a JSON file."""
    before = path.stat()
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_weights(here: Path, *, keep_times: bool) -> None:
    path = here / "model" / "model.safetensors"
    before, tensors = path.stat(), load_file(path)
    tensors["model.norm.weight"][-1] += 1e-3
    save_file(tensors, path, metadata={"format": "pt"})
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_letter(path: Path, *, keep_times: bool) -> None:
    """One letter of the first answer: the size stays."""
    before = path.stat()
    rows = json.loads(path.read_text())
    rows[0]["output"] = ("q" if rows[0]["output"][0] != "q" else "z") + rows[0]["output"][1:]
    path.write_text(json.dumps(rows))
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def swapped_merges(here: Path) -> None:
    path = here / "model" / "tokenizer.json"
    content = json.loads(path.read_text())
    merges = content["model"]["merges"]
    merges[10], merges[11] = merges[11], merges[10]
    path.write_text(json.dumps(content))


def another_row(path: Path) -> None:
    path.write_text(json.dumps([{"instruction": "new", "output": "row"}, *json.loads(path.read_text())]))


CHANGES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "base weights": (lambda h: other_weights(h, keep_times=False), ("base_weights",)),
    "base weights, same size and time": (lambda h: other_weights(h, keep_times=True), ("base_weights",)),
    "config.json": (lambda h: edited(h / "model" / "config.json", rms_norm_eps=1e-2), ("base_config",)),
    "config.json, same time": (lambda h: edited(h / "model" / "config.json", keep_times=True, rms_norm_eps=1e-2), ("base_config",)),
    "generation_config.json": (lambda h: (h / "model" / "generation_config.json").write_text('{"eos_token_id": 5}'), ("generation_config",)),
    "data: one letter": (lambda h: other_letter(h / "d.json", keep_times=False), ("data",)),
    "data: one letter, same size and time": (lambda h: other_letter(h / "d.json", keep_times=True), ("data",)),
    "data: a row more": (lambda h: another_row(h / "d.json"), ("data",)),
    "evaluation data: one letter": (lambda h: other_letter(h / "e.json", keep_times=False), ("eval_data",)),
    "evaluation data: one letter, same size and time": (lambda h: other_letter(h / "e.json", keep_times=True), ("eval_data",)),
    "tokenizer: two merges swapped": (swapped_merges, ("data",)),
    "chat template": (lambda h: edited(h / "model" / "tokenizer_config.json", chat_template="{{ messages[0]['content'] }}"), ("",)),
    "end token": (lambda h: edited(h / "model" / "tokenizer_config.json", eos_token="<|endoftext|>"), ("",)),
}  # fmt: skip
UNCHANGED: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _: None,
    "config.json, another layout": lambda h: (h / "model" / "config.json").write_text(
        json.dumps(json.loads((h / "model" / "config.json").read_text()), indent=7)
    ),
}


def _cases(world: World) -> Iterator[Case]:
    for setting in SETTINGS:
        name = setting.partition("=")[0]
        named = NAMED.get(name, name)
        yield Case(setting, partial(_refused, world, _nothing, (named,), setting))
    for name, (change, words) in CHANGES.items():
        yield Case(name, partial(_refused, world, change, words))
    for setting in HARMLESS:
        yield Case(setting, partial(_resumes, world, _nothing, setting))
    for name, change in UNCHANGED.items():
        yield Case(name, partial(_resumes, world, change))


def _nothing(_: Path) -> None:
    pass


def _refused(world: World, change: Callable[[Path], object], words: Sequence[str], *settings: str) -> str:
    return refused(_resumed(world, change, *settings), *words)


def _resumes(world: World, change: Callable[[Path], object], *settings: str) -> str:
    ended_well(_resumed(world, change, *settings))
    return "resumed"


def _resumed(world: World, change: Callable[[Path], object], *settings: str) -> Ran:
    """Train with a model, data and evaluation data of its own, lose the last checkpoint, change something, resume."""
    kept = world.root / "identity"
    if not kept.is_dir():
        # Made in the place where every case is: a model's path is part of the identity.
        shutil.copytree(_trained(world), kept)
    case = world.copy(kept)
    before = (case / "e.json").read_text()
    change(case)
    held = _EVALUATED if (case / "e.json").read_text() != before else ()
    return world.run(world.train_words(*_OWN, *held, *settings, RESUME), case)


def _trained(world: World) -> Path:
    """A run with held-out rows and one with evaluation data of its own, both killed behind update 2 of 4."""
    here = world.fresh()
    shutil.copytree(world.model, here / "model")
    rows = json.loads(world.alpaca.read_text())
    (here / "d.json").write_text(json.dumps(rows))
    (here / "e.json").write_text(json.dumps(rows[:6]))
    for held, run in (((), "run"), (_EVALUATED, "run-e")):
        ended_well(world.run(world.train_words(*_OWN, *held), here))
        shutil.rmtree(here / run / layout.checkpoint(4))
    return here


_OWN = ("model_name_or_path=model", "dataset=d.json", "prepared_dir=p")
_EVALUATED = ("val_size=0", "eval_dataset=e.json", "output_dir=run-e")
CAMPAIGN = Campaign("identity", _cases, 12)
