"""A folder or file is whole, or it is not there: also when the power goes off in between."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qlora_fast import atomic_io
from qlora_fast.errors import StorageError


class Crash(BaseException):
    """Stands for the power going off."""


def write(target: Path, text: str) -> None:
    with atomic_io.new_folder(target) as made:
        (made / "a").write_text(text)
        (made / "b").write_text(text)


def read(target: Path) -> list[str]:
    return [(target / name).read_text() for name in ("a", "b")]


def test_an_error_inside_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "best", "old")

    def fail() -> None:
        with atomic_io.new_folder(tmp_path / "best") as made:
            (made / "a").write_text("new")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert read(tmp_path / "best") == ["old", "old"]
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_others_may_read_what_the_umask_lets_them_read(tmp_path: Path) -> None:
    def mode() -> int:
        with atomic_io.new_folder(tmp_path / "best") as made:
            save_file({"a": torch.zeros(1)}, made / "a.safetensors")
        return (tmp_path / "best" / "a.safetensors").stat().st_mode & 0o777

    before = os.umask(0o022)
    try:
        assert mode() == 0o644, "another account serves what this one trained"
        os.umask(0o077)
        assert mode() == 0o600
    finally:
        os.umask(before)


def test_replacing_and_removing_leave_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path / "best", "old")
    write(tmp_path / "best", "new")
    assert read(tmp_path / "best") == ["new", "new"]
    atomic_io.remove_folder(tmp_path / "best")
    assert list(tmp_path.iterdir()) == []


def test_a_crash_at_any_step_leaves_one_whole_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, die_at = 0, 10**9

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **more: object) -> object:
            nonlocal steps
            steps += 1
            # Dead is dead: nothing after that moment happens either, not even tidying up.
            if steps >= die_at:
                raise Crash
            return real(*args, **more)

        return call

    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(Path, "rename", counted(Path.rename))
    monkeypatch.setattr(Path, "mkdir", counted(Path.mkdir))
    monkeypatch.setattr(atomic_io.shutil, "rmtree", counted(shutil.rmtree))
    write(tmp_path / "count" / "best", "old")
    steps = 0
    write(tmp_path / "count" / "best", "new")
    total, ends = steps, set()
    for moment in range(1, total + 1):
        folder = tmp_path / str(moment)
        die_at = 10**9
        write(folder / "best", "old")
        steps, die_at = 0, moment
        with pytest.raises(Crash):
            write(folder / "best", "new")
        die_at = 10**9
        atomic_io.recover(folder)
        content = read(folder / "best")
        assert content in (["old", "old"], ["new", "new"])
        assert [p.name for p in folder.iterdir()] == ["best"]
        ends.add(content[0])
    assert ends == {"old", "new"}


def test_a_file_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_io.write_text(tmp_path / "f", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space"):
        atomic_io.write_text(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_recovery_touches_nothing_else(tmp_path: Path) -> None:
    for name in ("best", "notes.old-1", ".hidden", "x.tmp-3"):
        (tmp_path / name).mkdir()
    atomic_io.recover(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "best", "notes.old-1", "x.tmp-3"]


def test_what_a_killed_process_left_goes_and_what_a_running_one_writes_stays(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom qlora_fast import atomic_io\n"
        "with atomic_io.new_folder(Path(sys.argv[1])) as made:\n"
        "    (made / 'a').write_text('x')\n    print('writing', flush=True)\n    sys.stdin.read()\n"
    )
    target = tmp_path / "merged"
    words = [sys.executable, "-c", code, str(target)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        write(target, "mine")
        assert len(list(tmp_path.iterdir())) == 2, "the other process is still at it"
        process.kill()
    (tmp_path / ".merged-other.tmp-1").mkdir()
    write(target, "again")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".merged-other.tmp-1", "merged"]
