"""Hashes of large files are remembered, and only as long as nothing changed."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from qlora_fast.hub import cache


def test_files_are_read_in_order_and_small_ones_without_threads() -> None:
    def look(name: str) -> tuple[str, bool]:
        return name, threading.current_thread() is threading.main_thread()

    for size, alone in ((1 << 20, True), (1 << 30, False)):
        assert list(cache.of_each(look, "abc", size)) == [(name, alone) for name in "abc"]


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"one" * (1 << 19))
    hashed: list[Path] = []
    real = cache.atomic_io.sha256_of

    def counted(file: Path) -> str:
        hashed.append(file)
        return real(file)

    monkeypatch.setattr(cache.atomic_io, "sha256_of", counted)
    first = cache.remembered_sha256(path)
    assert cache.remembered_sha256(path) == first
    assert len(hashed) == 2, "it has just been written: its time may not tell a change"
    monkeypatch.setattr(cache, "_SETTLED_S", 0.0)
    time.sleep(0.01)
    for _ in range(3):
        assert cache.remembered_sha256(path) == first
    assert len(hashed) == 3
    before = path.stat()
    path.write_bytes(b"two" * (1 << 19))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.remembered_sha256(path) != first


@pytest.mark.parametrize("age", [0.0, 3600.0])
def test_a_file_that_changes_or_settles_while_it_is_hashed_is_not_remembered(
    age: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"one" * (1 << 19))
    now = [path.stat().st_ctime + age]
    monkeypatch.setattr(cache.time, "time", lambda: now[0])
    real = cache.atomic_io.sha256_of

    def slow(file: Path) -> str:
        digest = real(file)
        if age:
            path.write_bytes(b"two" * (1 << 19))  # in place, after it was read
        now[0] += 3600.0
        return digest

    monkeypatch.setattr(cache.atomic_io, "sha256_of", slow)
    cache.remembered_sha256(path)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
