"""The name of every file and folder of a run, once. ``docs/guide.md`` shows the same tree to users.

::

    run.json  config.yaml  trainer_log.jsonl  trainer_state.json  *_results.json  eval_samples.jsonl  README.md
    adapter_config.json  adapter_model.safetensors  qlora_fast.json  tokenizer…  MANIFEST.json     the final adapter
    best/  last/                                                                                   adapters, the same files
    checkpoint-N/                                                                                  what a run resumes from
    eval/NAME/                                                                                     further evaluations
"""

from __future__ import annotations

import re
from pathlib import Path

from qlora_fast.hub import manifest, places, untrusted

RUN = places.RUN
"""Marks a folder as a run of this program: only such a folder is ever moved aside or written into."""
CONFIG = "config.yaml"
LOG = "trainer_log.jsonl"
TRAINER_STATE = "trainer_state.json"
ALL_RESULTS = "all_results.json"
TRAIN_RESULTS = "train_results.json"
EVAL_RESULTS = "eval_results.json"
EVAL_SAMPLES = "eval_samples.jsonl"
MODEL_CARD = "README.md"
TENSORBOARD = "tensorboard"
BEST = "best"
LAST = "last"
EVALUATIONS = "eval"
"""Below a run, one folder for each further evaluation that ``qlora-fast evaluate`` made of it."""

ADAPTER_CONFIG, ADAPTER_WEIGHTS = untrusted.ADAPTER_CONFIG, untrusted.ADAPTER_WEIGHTS
CARD = "qlora_fast.json"
"""Stored beside an adapter: base model, template, system prompt and tokenizer that a chat with it needs."""

MANIFEST = manifest.MANIFEST
"""Size and hash of the files of a checkpoint or an adapter; written last."""
OPTIMIZER = "optimizer.safetensors"
RANDOM = "random.safetensors"
PROGRESS = "progress.json"

_CHECKPOINT = re.compile(r"checkpoint-(0|[1-9]\d*)")


def checkpoint(update: int) -> str:
    """The folder of the checkpoint that was written after ``update`` optimizer steps."""
    return f"checkpoint-{update}"


def update_of(name: str) -> int | None:
    """The optimizer steps of a checkpoint's folder; None if the name is not one of a checkpoint."""
    found = _CHECKPOINT.fullmatch(name)
    return None if found is None else int(found[1])


def is_run(folder: Path) -> bool:
    """Whether this program wrote a run into the folder."""
    return (folder / RUN).is_file()


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter that PEFT loads."""
    return (folder / ADAPTER_CONFIG).is_file()


def run_of(folder: Path) -> Path | None:
    """The run that a folder is, or that it lies in (``best``, ``last``, a checkpoint); None for any other folder."""
    return next((f for f in (folder, folder.resolve().parent) if is_run(f)), None)
