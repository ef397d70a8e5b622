"""A disk that is full costs what cannot be written, and says what it needs; it never costs the run."""

from __future__ import annotations

import errno
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from parameter_run import Make, maker
from qlora_fast import atomic_io
from qlora_fast.errors import StorageError
from qlora_fast.runs import layout
from qlora_fast.train import output_folder
from qlora_fast.train.run_log import RunLog

STEPS = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file can become larger: what a quota does, with the errors of the real writers."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def run(model_dir: Path, tmp_path: Path) -> Make:
    return maker(model_dir, tmp_path)


def test_an_error_names_path_space_and_fix(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with largest_file(1000), pytest.raises(StorageError) as caught:
        atomic_io.save_tensors({"a": torch.zeros(10_000)}, path)
    assert f"cannot write `{path}`" in caught.value.message
    assert "40 kB needed" in caught.value.message
    assert " free)" in caught.value.message
    assert "save_total_limit" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "that you may write to"), (errno.EMFILE, "ulimit -n")],
)
def test_each_kind_of_refusal_has_its_fix(tmp_path: Path, number: int, hint: str) -> None:
    def fail() -> None:
        with atomic_io.new_folder(tmp_path / "x"):
            raise OSError(number, "no")

    with pytest.raises(StorageError) as caught:
        fail()
    assert hint in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_read_is_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_io.new_folder(tmp_path / "x"):
        (tmp_path / "nothing").read_text()


def test_checkpoints_that_do_not_fit_cost_no_run(run: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The adapter fits, the optimizer's state does not: real errors of safetensors."""
    wide = {**STEPS, "lora_rank": 32}
    whole = run(**wide)
    largest = max(path.stat().st_size for path in (whole.folder / layout.LAST).iterdir())
    assert (whole.folder / layout.checkpoint(4) / layout.OPTIMIZER).stat().st_size > largest + 2000
    with largest_file(largest + 2000):
        small = run(**wide)
    said = [text for text in caplog.messages if "no checkpoint at update" in text]
    assert [f"checkpoint-{n}/{layout.OPTIMIZER}`" in text for n, text in zip((2, 4), said, strict=True)] == [True, True]
    assert not list(small.folder.glob("checkpoint-*"))
    assert (small.folder / layout.ADAPTER_WEIGHTS).read_bytes() == (whole.folder / layout.ADAPTER_WEIGHTS).read_bytes()
    assert not [p for p in small.folder.iterdir() if atomic_io.is_temporary(p)]


def test_a_picture_or_scores_that_cannot_be_written_cost_nothing_else(
    run: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from qlora_fast.train import callbacks

    def full(*_: Any) -> None:
        raise StorageError("no space")

    def no_space(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(callbacks, "write_samples", full)
    monkeypatch.setattr(output_folder, "plot_losses", no_space)
    made = run(**STEPS, eval_strategy="steps", eval_steps=2, plot_loss="true")
    assert "no scores by sample at update 2" in caplog.text
    assert "no picture of the losses" in caplog.text
    assert json.loads((made.folder / layout.ALL_RESULTS).read_text())["train_steps"] == 4


def test_a_log_that_misses_entries_gets_them_with_the_next_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, history = RunLog(tmp_path, 3), [{"step": float(n), "loss": 1.0} for n in (1, 2, 3)]
    path = tmp_path / layout.LOG
    log.append(history[:1])
    with largest_file(path.stat().st_size + 5):
        log.append(history[:2])  # half a line arrives
    log.append(history)
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [1.0, 2.0, 3.0]
    assert caplog.text.count("is not written") == 1


def test_too_little_space_is_said_before_the_first_save(
    run: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(output_folder.atomic_io, "free_space", lambda _: 12_345)
    run(**STEPS)
    (text,) = [m for m in caplog.messages if "this run will write about" in m]
    assert "12.3 kB free" in text
    assert "(2 checkpoints of " in text
    assert "save_total_limit" in text
