"""Any sequence of prep, edit, train, kill, resume, overwrite, merge and damage, against a model of what must hold.

Every finished run is, byte for byte, the one that an undisturbed process makes of the same data; what is refused changes
nothing; nothing is deleted; a damaged file is never taken for what it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import tiny
from dying import Crash, Dying
from qlora_fast.cli import cli
from qlora_fast.doctor import examine_artifact
from qlora_fast.errors import QloraFastError
from qlora_fast.runs import layout

pytestmark = pytest.mark.slow
SETTINGS = {
    "max_steps": 4, "save_strategy": "steps", "save_steps": 1, "logging_steps": 1, "plot_loss": "false", "lora_rank": 2,
    "lora_dropout": 0.1, "cutoff_len": 64, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "val_size": 0,
}  # fmt: skip
RESUME, OVERWRITE = "resume_from_checkpoint=true", "overwrite_output_dir=true"


def contents(folder: Path) -> dict[str, str]:
    """Hashes of all files of a folder."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1
    path.write_bytes(content)


class Life(RuleBasedStateMachine):
    """One data file, one output folder, one merged folder."""

    model: Path
    references: dict[int, bytes]
    """The adapter that an undisturbed run makes of each version of the data."""

    @initialize()
    def begin(self) -> None:
        self.home = Path(tempfile.mkdtemp())
        self.patch = pytest.MonkeyPatch()
        self.patch.setenv("XDG_CACHE_HOME", str(self.home / "cache"))
        self.version = 0
        self.trained_on: int | None = None  # the version of the data that the folder's run was begun with
        self.finished = False
        self.damaged = False  # whether the final adapter is
        self.merged_from: int | None = None
        self.prepared: dict[int, dict[str, str]] = {}
        self.aside: list[dict[str, str]] = []
        self._write_data()

    def teardown(self) -> None:
        if hasattr(self, "home"):
            self.patch.undo()
            shutil.rmtree(self.home)

    # -- what a user does

    @rule(version=st.integers(0, 2))
    def edit(self, version: int) -> None:
        self.version = version
        self._write_data()

    @rule()
    def prep(self) -> None:
        ran = self._ok("prep", "--config", str(self.config), "--json")
        report = json.loads(ran.stdout)
        assert (report["rows_read"], report["rows_kept"]) == (12, 12 - self.version)
        found = contents(Path(report["path"]))
        assert self.prepared.setdefault(self.version, found) == found, "the same data, the same bytes"

    @rule()
    def train(self) -> None:
        if self.trained_on is not None:
            self._refused("holds a run already", "train", str(self.config))
        else:
            self._finishes()

    @rule(share=st.floats(0, 1), words=st.sampled_from([(), (RESUME,), (OVERWRITE,)]))
    def train_and_die(self, share: float, words: tuple[str, ...]) -> None:
        if (self.trained_on is not None and not words) or (words == (RESUME,) and not self._resumable()):
            return
        before = contents(self.run) if words == (OVERWRITE,) and self.trained_on is not None else None
        dying = Dying(self.patch)
        with suppress(Crash):
            dying.call(lambda: self._invoke("train", str(self.config), *words), at=1 + int(share * 120))
        self._restart()
        moved = before is not None and any(contents(p) == before for p in self._moved())
        if before is not None and moved:
            self.aside.append(before)
        if not layout.is_run(self.run):
            self.trained_on = None
        elif words != (RESUME,) and (before is None or moved):
            self.trained_on = self.version
        self.finished = self.trained_on is not None and self._ended()
        self.damaged = self.finished and layout.ADAPTER_WEIGHTS in self._broken(self.run)

    @precondition(lambda self: self.trained_on is not None)
    @rule()
    def resume(self) -> None:
        if not self._resumable() and self._checkpoints():
            self._refused("is of another run: data", "train", str(self.config), RESUME)
        else:
            self._finishes(RESUME)

    @precondition(lambda self: self.trained_on is not None)
    @rule()
    def overwrite(self) -> None:
        self.aside.append(contents(self.run))
        self._finishes(OVERWRITE)

    @rule()
    def merge(self) -> None:
        words = ("merge", str(self.run), "-o", str(self.merged), "--no-check")
        if self.merged_from is not None:
            self._refused("already exists", *words)
        elif not self.finished:
            # A run that was killed behind its last write has an adapter, and says that it has not ended.
            if not isinstance(self._invoke(*words).exception, QloraFastError):
                assert not self._broken(self.run)
                shutil.rmtree(self.merged)
        elif self.damaged:
            self._refused("is damaged", *words)
        else:
            self._ok(*words)
            self.merged_from = self.trained_on
            assert not self._broken(self.merged)

    # -- what the world does

    @precondition(lambda self: bool(self.prepared))
    @rule(chance=st.randoms(use_true_random=False))
    def damage_prepared(self, chance: random.Random) -> None:
        folders = [p for p in (self.home / "prepared").iterdir() if p.is_dir() and not p.name.endswith(".damaged")]
        if folders:
            folder = chance.choice(sorted(folders))
            path = chance.choice(sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors")))
            if path.name != "checksums.json":
                path.unlink() if chance.random() < 0.3 else flip(path)

    @precondition(lambda self: len(self._checkpoints()) > 1)
    @rule()
    def damage_the_newest_checkpoint(self) -> None:
        newest = self._checkpoints()[-1]
        flip(next(p for p in sorted(newest.iterdir()) if p.suffix == ".safetensors"))
        assert self._broken(self.run)

    @precondition(lambda self: self.finished and not self.damaged)
    @rule()
    def damage_the_adapter(self) -> None:
        flip(self.run / layout.ADAPTER_WEIGHTS)
        self.damaged = True
        assert layout.ADAPTER_WEIGHTS in self._broken(self.run)
        self._refused("is damaged", "chat", str(self.run), "--prompt", "x")

    # -- what must hold

    @invariant()
    def a_finished_run_is_the_undisturbed_one(self) -> None:
        if getattr(self, "finished", False) and not self.damaged:
            assert self.trained_on is not None
            assert (self.run / layout.ADAPTER_WEIGHTS).read_bytes() == self._reference(self.trained_on)

    @invariant()
    def nothing_that_was_moved_aside_is_lost(self) -> None:
        for before in getattr(self, "aside", ()):
            assert any(contents(path) == before for path in self._moved())

    # -- how it is done

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def merged(self) -> Path:
        return self.home / "merged"

    @property
    def config(self) -> Path:
        return self.home / "c.yaml"

    def _write_data(self) -> None:
        rows = [{"instruction": f"q {i}", "output": f"answer {i} " * (1 + i % 5)} for i in range(12)]
        for i in range(self.version):
            rows[i] = {"instruction": "q", "output": ""}
        (self.home / "data.json").write_text(json.dumps(rows))
        self._write_config(self.home)

    def _write_config(self, folder: Path) -> Path:
        values = {"model_name_or_path": self.model, "dataset": self.home / "data.json", "output_dir": folder / "run",
                  "prepared_dir": folder / "prepared", **SETTINGS}  # fmt: skip
        path = folder / "c.yaml"
        path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
        return path

    def _restart(self) -> None:
        """Another process: nothing that was patched or remembered is left."""
        self.patch.undo()
        self.patch.setenv("XDG_CACHE_HOME", str(self.home / "cache"))

    def _invoke(self, *words: str) -> Result:
        return CliRunner().invoke(cli, ["-q", *words])

    def _ok(self, *words: str) -> Result:
        ran = self._invoke(*words)
        assert ran.exit_code == 0, f"{words}: {ran.exception!r}\n{ran.output}"
        return ran

    def _refused(self, why: str, *words: str) -> None:
        before = contents(self.run) if self.run.exists() else {}
        ran = self._invoke(*words)
        assert isinstance(ran.exception, QloraFastError), f"{words}: {ran.exception!r}\n{ran.output}"
        assert why in str(ran.exception)
        assert (contents(self.run) if self.run.exists() else {}) == before

    def _finishes(self, *words: str) -> None:
        self._ok("train", str(self.config), *words)
        if words != (RESUME,) or not self._resumable():
            self.trained_on = self.version
        self.finished, self.damaged = True, False
        assert {p for p in self._broken(self.run) if not p.startswith("checkpoint-")} == set()
        assert not [
            p.name for p in self.home.iterdir() if ".tmp-" in p.name or (".old-" in p.name[1:] and p.name[0] == ".")
        ]

    def _reference(self, version: int) -> bytes:
        if version not in self.references:
            folder, now = Path(tempfile.mkdtemp()), self.version
            self.version = version
            self._write_data()
            config = self._write_config(folder)
            self._ok("train", str(config))
            self.references[version] = (folder / "run" / layout.ADAPTER_WEIGHTS).read_bytes()
            self.version = now
            self._write_data()
            shutil.rmtree(folder)
        return self.references[version]

    def _resumable(self) -> bool:
        return self.trained_on == self.version

    def _ended(self) -> bool:
        ended = json.loads((self.run / layout.RUN).read_text()).get("ended", "")
        return "updates made" in ended and (self.run / layout.ADAPTER_WEIGHTS).is_file()

    def _checkpoints(self) -> list[Path]:
        if not hasattr(self, "home") or not self.run.is_dir():
            return []
        found = [p for p in self.run.iterdir() if layout.update_of(p.name) is not None]
        return sorted(found, key=lambda p: layout.update_of(p.name) or 0)

    def _moved(self) -> list[Path]:
        return [p for p in self.home.iterdir() if p.name.startswith("run.old-")]

    def _broken(self, folder: Path) -> set[str]:
        return {f.name for group in examine_artifact(folder).values() for f in group if f.state == "broken"}


def test_any_sequence_of_commands_kills_and_damage(tmp_path: Path) -> None:
    machine: Callable[[], Any] = type(
        "Machine", (Life,), {"model": tiny.model_folder(tmp_path / "model"), "references": {}}
    )
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=int(os.environ.get("QLORA_FAST_EXAMPLES", "6")),
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
