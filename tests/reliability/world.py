"""Where a campaign happens: a temporary folder with a tiny model, data, and undisturbed results to compare with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import tiny
from paths import FIXTURES
from qlora_fast.data import prepare
from reliability import command
from reliability.case import ended_well
from reliability.command import Ran
from reliability.folders import Digest, digest
from reliability.shim import Fault

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "500",
    "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "agg",
}  # fmt: skip
PART_BYTES = 6_000
"""Small parts, so that a preparation has several."""
SETTINGS = (
    "cutoff_len=64", "val_size=4", "max_samples=20", "lora_rank=4", "lora_dropout=0.1", "learning_rate=5e-3", "max_steps=4",
    "per_device_train_batch_size=4", "gradient_accumulation_steps=1", "eval_strategy=steps", "eval_steps=2",
    "save_strategy=steps", "save_steps=2", "logging_steps=1", "plot_loss=false", "load_best_model_at_end=true",
)  # fmt: skip
RESUME = "resume_from_checkpoint=true"


class World:
    """Made once for all campaigns of a process; each case works in :meth:`fresh`, and leaves everything else as it is.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        os.environ.update(ENVIRONMENT, XDG_CACHE_HOME=str(root / "cache"))
        self.model = root / "model"
        self.model.mkdir(parents=True)
        tiny.model_folder(self.model)
        self.alpaca = FIXTURES / "demo" / "alpaca_en.json"
        prepare.PART_BYTES = PART_BYTES
        self.config = root / "tiny.yaml"
        values = (
            f"model_name_or_path={self.model}", f"dataset={self.alpaca}", f"prepared_dir={root / 'prepared'}", "output_dir=run",
        )  # fmt: skip
        self.config.write_text("".join(f"{line.replace('=', ': ', 1)}\n" for line in (*values, *SETTINGS)))
        command.warm_up(self.model)

    def fresh(self) -> Path:
        """An empty folder, the same one every time."""
        folder = self.root / "case" / "here"
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def run(
        self,
        words: Sequence[str | Path],
        cwd: Path,
        fault: Fault | None = None,
        before: Callable[[], object] | None = None,
        timeout: float = 60,
    ) -> Ran:
        """See :func:`reliability.command.run`."""
        return command.run(words, cwd, fault=fault, before=before, timeout=timeout)

    def train_words(self, *settings: str | Path) -> list[str | Path]:
        """``train`` into ``run`` of the folder it is called in; the prepared data is shared by all cases."""
        return ["train", self.config, *settings]

    def prep_words(self, data: Path, *settings: str) -> list[str | Path]:
        """``prep`` into ``out`` of the folder it is called in."""
        return [
            "prep",
            data,
            f"model_name_or_path={self.model}",
            "cutoff_len=64",
            "threads=2",
            "--out",
            "out",
            *settings,
        ]

    @cached_property
    def trained(self) -> Path:
        """A folder with ``run``: a training run that nothing disturbed."""
        folder = self.root / "trained"
        shutil.rmtree(folder, ignore_errors=True)
        ended_well(self.run(self.train_words(), folder))
        return folder

    @cached_property
    def killed(self) -> Path:
        """A folder with ``run``: one that was killed behind update 6 of 8, with checkpoints 2, 4 and 6 and its best behind it."""
        folder = self.root / "killed"
        whole = self.root / "killed-whole"
        ended_well(self.run(self.long_words(), whole))
        shutil.copytree(whole, folder)
        for name in ("checkpoint-8", "last"):
            shutil.rmtree(folder / "run" / name)
        for path in (folder / "run").iterdir():
            if path.is_file() and path.name not in (
                "run.json",
                "config.yaml",
                "trainer_log.jsonl",
                "eval_samples.jsonl",
            ):
                path.unlink()
        return folder

    @cached_property
    def killed_whole(self) -> Digest:
        """What :attr:`killed` must become when it is resumed."""
        return digest(self.killed.parent / "killed-whole" / "run")

    def long_words(self, *settings: str) -> list[str | Path]:
        """The run of :attr:`killed`: its rate is so high that the first evaluation is the best one."""
        return self.train_words("max_steps=8", "learning_rate=0.5", "lr_scheduler_type=constant", *settings)

    @cached_property
    def rows(self) -> Path:
        """A folder of data: an array and lines; some rows are dropped, some cut."""
        folder = self.root / "rows"
        folder.mkdir()
        rows = [
            {
                "instruction": f"question {i} " + "w " * (i % 50),
                "output": "" if i % 13 == 0 else f"answer {i} " * (1 + i % 20),
            }
            for i in range(400)
        ]
        (folder / "a.json").write_text(json.dumps(rows[:200]))
        (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[200:]))
        return folder

    @cached_property
    def prepared(self) -> Path:
        """A folder with ``out``: :attr:`rows`, prepared."""
        folder = self.root / "prepared-rows"
        ended_well(self.run(self.prep_words(self.rows), folder))
        return folder

    def copy(self, folder: Path) -> Path:
        """A fresh copy of one of the folders above, to be hurt."""
        here = self.fresh()
        shutil.copytree(folder, here, symlinks=True, dirs_exist_ok=True)
        return here
