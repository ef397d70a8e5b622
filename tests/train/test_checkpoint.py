"""A killed run ends as if it had never been killed; a damaged checkpoint is never used, and never silently."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import tiny
from paths import TESTS
from prepared import random_dataset
from qlora_fast import atomic_io
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.errors import ArtifactError
from qlora_fast.hub import manifest
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.runs import layout
from qlora_fast.train import checkpoint
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.optimizer import AdamW, AdamWOptions
from qlora_fast.train.progress import Progress
from qlora_fast.train.random_state import random_states, restore
from qlora_fast.train.trainer import Trainer
from tiny_run import KILLED, losses, tiny_run, weights_digest


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return random_dataset(tmp_path_factory.mktemp("ckpt") / "p", 40, vocab=12, longest=40)


@pytest.fixture(scope="module")
def saved(data: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with checkpoint-4, -8 and -12."""
    folder = tmp_path_factory.mktemp("saved")
    tiny_run(data, folder, save_every=4, dropout=0.1).run()
    return folder


class Crash(BaseException):
    """Stands for the power going off: nothing catches it."""


@pytest.mark.parametrize("stop_at", [3, 5, 7, 11])
def test_a_resumed_run_ends_bit_identical(data: PreparedDataset, tmp_path: Path, stop_at: int) -> None:
    def crash(trainer: Trainer) -> None:
        if trainer.progress.update == stop_at:
            raise Crash

    options = {"dropout": 0.1, "row": 48, "save_every": 2, "eval_every": 4, "logging_steps": 3}
    whole = tiny_run(data, tmp_path / "whole", **options)  # type: ignore[arg-type]
    whole.run()
    with pytest.raises(Crash):
        tiny_run(data, tmp_path / "cut", on_update=crash, **options).run()  # type: ignore[arg-type]
    resumed = tiny_run(data, tmp_path / "cut", **options)  # type: ignore[arg-type]
    assert 0 < resumed.progress.update < stop_at
    resumed.run()
    assert weights_digest(resumed) == weights_digest(whole)
    last = [tmp_path / run / "checkpoint-12" for run in ("whole", "cut")]
    for name in ("adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "random.safetensors"):
        assert (last[0] / name).read_bytes() == (last[1] / name).read_bytes(), name
    assert _without_times(resumed) == _without_times(whole)


def _without_times(trainer: Trainer) -> list[dict[str, float]]:
    return [
        {k: v for k, v in entry.items() if not k.endswith(("_second", "_runtime"))}
        for entry in trainer.progress.log_history
    ]


def test_a_killed_process_ends_bit_identical(data: PreparedDataset, tmp_path: Path) -> None:
    whole = tiny_run(data, tmp_path / "whole", **KILLED)  # type: ignore[arg-type]
    whole.run()
    command = [sys.executable, str(TESTS / "tiny_run.py"), str(data.path), str(tmp_path / "cut")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        # After the first checkpoint, at no particular moment.
        while not (tmp_path / "cut" / "checkpoint-4").exists():
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.8))
        process.kill()
    assert not (tmp_path / "cut" / "checkpoint-30").exists(), "the run was too fast to be killed"
    resumed = tiny_run(data, tmp_path / "cut", **KILLED)  # type: ignore[arg-type]
    assert resumed.progress.update >= 4
    resumed.run()
    assert weights_digest(resumed) == weights_digest(whole)
    assert losses(resumed) == losses(whole)


def test_a_crash_at_any_step_of_a_save_loses_at_most_that_save(
    data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fsync, rename and unlink of a save is a place to die."""
    run = tiny_run(data, tmp_path / "run", save_every=3, updates=3)
    run.run()
    tensors = run.adapter.tensors()
    steps: list[str] = []
    die_at = 10**9

    def counted(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **more: object) -> object:
            steps.append(name)
            if len(steps) == die_at:
                raise Crash
            return real(*args, **more)

        return call

    monkeypatch.setattr(os, "fsync", counted("fsync", os.fsync))
    monkeypatch.setattr(Path, "rename", counted("rename", Path.rename))
    monkeypatch.setattr(atomic_io.shutil, "rmtree", counted("rmtree", shutil.rmtree))
    monkeypatch.setattr(Path, "mkdir", counted("mkdir", Path.mkdir))

    def save(folder: Path) -> None:
        progress = Progress(update=6, log_history=[])
        checkpoint.save_checkpoint(folder, run.forward.model, run.adapter, run.optimizer, progress, {"data": "x"})

    folder = tmp_path / "count"
    save(folder)
    total = len(steps)
    assert total > 10
    for moment in range(1, total + 1):
        folder = tmp_path / f"crash-{moment}"
        shutil.copytree(tmp_path / "run", folder)
        steps.clear()
        die_at = moment
        with pytest.raises(Crash):
            save(folder)
        die_at = 10**9
        newest = checkpoint.newest_whole(folder)
        assert newest is not None
        assert newest.name in ("checkpoint-3", "checkpoint-6")
        assert all(torch.equal(t, tensors[n]) for n, t in load_file(newest / "adapter_model.safetensors").items())


FILES = [*checkpoint.PARTS, layout.MANIFEST, "trainer_state.json"]


def _missing(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = random.randrange(len(content))
    content[place] ^= 1 << random.randrange(8)
    path.write_bytes(content)


@pytest.mark.parametrize("hurt", [_missing, _cut, _empty, _zeros, _one_bit])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    saved: Path, tmp_path: Path, name: str, hurt: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    hurt(folder / "checkpoint-12" / name)
    before = sorted(p.name for p in folder.rglob("*"))
    newest = checkpoint.newest_whole(folder)
    assert newest == folder / "checkpoint-8"
    assert "checkpoint-12` is damaged" in caplog.text
    assert sorted(p.name for p in folder.rglob("*")) == before, "nothing is removed"


@settings(max_examples=300, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_manifest_goes_unseen(saved: Path, place: float, bit: int) -> None:
    path = saved / "checkpoint-12" / layout.MANIFEST
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[int(place * len(whole))] ^= 1 << bit
    try:
        path.write_bytes(flipped)
        assert checkpoint.damage(path.parent) is not None
    finally:
        path.write_bytes(whole)


def test_a_damaged_checkpoint_is_kept_when_its_update_comes_again(
    data: PreparedDataset, saved: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    _cut(folder / "checkpoint-12" / "optimizer.safetensors")
    tiny_run(data, folder, save_every=4, dropout=0.1).run()
    assert checkpoint.damage(folder / "checkpoint-12") is None
    assert (folder / "checkpoint-12.damaged").is_dir()


def test_a_checkpoint_of_another_run_is_refused_and_the_difference_named(data: PreparedDataset, saved: Path) -> None:
    with pytest.raises(ArtifactError, match=r"another run: rank: None → 8; data: 'f+…' → 'other'"):
        tiny_run(data, saved, identity={"data": "other", "rank": 8})


def test_a_checkpoint_of_another_model_is_refused_and_nothing_is_changed(data: PreparedDataset, saved: Path) -> None:
    adapter = Adapter(tiny.adapted(tiny.qwen3(), rank=8))
    before = adapter.weights.clone()
    with pytest.raises(ArtifactError, match="another shape of `base_model"):
        checkpoint.load_checkpoint(
            saved / "checkpoint-12", adapter, AdamW(adapter, AdamWOptions()), {"data": data.fingerprint}
        )
    assert torch.equal(before, adapter.weights)


def test_a_part_that_is_missing_inside_a_file_is_an_error_and_not_a_zero(
    data: PreparedDataset, saved: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint-12"
    shutil.copytree(saved / "checkpoint-12", folder)
    moments = load_file(folder / "optimizer.safetensors")
    save_file({k: v for k, v in moments.items() if "exp_avg_sq" not in k}, folder / "optimizer.safetensors")
    adapter = Adapter(tiny.adapted(tiny.qwen3()))
    with pytest.raises(ArtifactError, match="exp_avg_sq"):
        checkpoint.load_checkpoint(folder, adapter, AdamW(adapter, AdamWOptions()), {"data": data.fingerprint})


def _progress(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        stored = json.loads((folder / "progress.json").read_text())
        stored["progress"].update(changes)
        (folder / "progress.json").write_text(json.dumps(stored))

    return change


def _not_finite(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


FORGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "another update": (_progress(update=3), "it is of update 3"),
    "a later update": (_progress(update=10**9), "it is of update 1000000000"),
    "a negative update": (_progress(update=-1), "not a whole number"),
    "text for a number": (_progress(update="x"), "not a whole number"),
    "an unknown field": (_progress(bogus=1), "fields are not those"),
    "a log of text": (_progress(log_history=[{"loss": "x"}]), "entry of its log"),
    "no progress": (lambda folder: (folder / "progress.json").write_text("[]"), "no identity"),
    "nested too deeply": (lambda folder: (folder / "progress.json").write_text("[" * 50_000), "cannot be used"),
    "weights that are not finite": (_not_finite, "not finite"),
    "no random state": (
        lambda folder: save_file({}, folder / "random.safetensors"),
        "it holds no random state",
    ),
    "a random state that is cut": (
        lambda folder: save_file({"rank0.cpu": torch.zeros(5, dtype=torch.uint8)}, folder / "random.safetensors"),
        "does not fit",
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_checkpoint_whose_manifest_agrees_with_wrong_files_is_refused(
    data: PreparedDataset, saved: Path, tmp_path: Path, what: str
) -> None:
    forge, words = FORGED[what]
    folder = tmp_path / "checkpoint-12"
    shutil.copytree(saved / "checkpoint-12", folder)
    forge(folder)
    manifest.write(folder)
    assert checkpoint.damage(folder) is None
    adapter = Adapter(tiny.adapted(tiny.qwen3()))
    with pytest.raises(ArtifactError, match=words):
        checkpoint.load_checkpoint(folder, adapter, AdamW(adapter, AdamWOptions()), {"data": data.fingerprint})


def test_no_file_of_a_checkpoint_is_a_pickle(saved: Path) -> None:
    for path in (saved / "checkpoint-12").iterdir():
        assert path.suffix in (".json", ".safetensors"), path
        assert not path.read_bytes().startswith((b"PK", b"\x80")), path


def test_plain_peft_loads_a_checkpoint_with_the_same_logits(data: PreparedDataset, tmp_path: Path) -> None:
    run = tiny_run(data, tmp_path / "run", save_every=12)
    run.run()
    loaded = PeftModel.from_pretrained(tiny.qwen3(attention="sdpa"), str(tmp_path / "run" / "checkpoint-12")).eval()
    ours = run.forward.model.eval()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, ours(ids, use_cache=False).logits, atol=1e-5)
    config = json.loads((tmp_path / "run" / "checkpoint-12" / "adapter_config.json").read_text())
    assert config["inference_mode"] is True
    assert config["target_modules"] == sorted(config["target_modules"])


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, calls = safetensors.torch.save_file, 0

    def full(*args: object, **more: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:  # in the second checkpoint
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    tiny_run(data, tmp_path, save_every=4).run()
    assert "no checkpoint at update 8" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-12", "checkpoint-4"]


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (None, None, [4, 8, 12]),
        (1, None, [12]),
        (1, 4, [4, 12]),
        (2, 8, [8, 12]),
        (2, 4, [4, 12]),
        (9, None, [4, 8, 12]),
    ],
)
def test_rotation_keeps_the_best_and_the_newest(
    saved: Path, tmp_path: Path, limit: int | None, best: int | None, left: list[int]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    checkpoint.rotate(folder, limit, best)
    assert [int(p.name.split("-")[1]) for p in checkpoint.checkpoints(folder)] == left
    assert sorted(p.name for p in folder.iterdir()) == sorted(f"checkpoint-{n}" for n in left)


def test_rotation_never_removes_the_newest_that_verifies(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    _cut(folder / "checkpoint-12" / "progress.json")
    checkpoint.rotate(folder, 1, None)
    newest = checkpoint.newest_whole(folder)
    assert newest is not None
    assert newest.name == "checkpoint-8"


def test_random_numbers_go_on_where_a_checkpoint_was_written_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    states = random_states(Ranks())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    restore(states, Ranks(), 40)
    assert seeds == [40]
