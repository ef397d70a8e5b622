"""Memory and processors within the limits of a container, read from files that a test writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from qlora_fast.model import host

GB = 1 << 30


class Files:
    """A root folder with the files of cgroups."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str | int) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(host, "_ROOT", tmp_path)
    memory: Any = type("Memory", (), {"total": 64 * GB, "available": 32 * GB})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(host, "usable_cores", lambda: 16)
    return Files(tmp_path)


def test_without_a_container(files: Files) -> None:
    assert host.memory() == host.HostMemory(64 * GB, None, 32 * GB)
    assert host.cores() == 16


def test_the_least_of_all_groups_around_the_process_counts(files: Files) -> None:
    files.write("proc/self/cgroup", "0::/pod/job")
    files.write("sys/fs/cgroup/pod/memory.max", 8 * GB)
    files.write("sys/fs/cgroup/pod/memory.current", 3 * GB)
    files.write("sys/fs/cgroup/pod/memory.stat", f"anon 5\nfile 7\ninactive_file {GB}\nactive_file 3")
    files.write("sys/fs/cgroup/pod/job/memory.max", "max")
    files.write("sys/fs/cgroup/pod/job/memory.current", GB)
    files.write("sys/fs/cgroup/pod/job/cpu.max", "max 100000")
    files.write("sys/fs/cgroup/pod/cpu.max", "250000 100000")
    # A gigabyte of what is used is file cache that the kernel gives back.
    assert host.memory() == host.HostMemory(64 * GB, 8 * GB, 6 * GB)
    assert host.cores() == 2.5


def test_cgroups_of_version_1(files: Files) -> None:
    files.write("proc/self/cgroup", "5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n1:name=systemd:/x")
    files.write("sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes", 4 * GB)
    files.write("sys/fs/cgroup/memory/docker/a/memory.usage_in_bytes", 1 * GB)
    files.write("sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    files.write("sys/fs/cgroup/memory/memory.usage_in_bytes", 1 * GB)
    files.write("sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us", 50000)
    files.write("sys/fs/cgroup/cpu/docker/a/cpu.cfs_period_us", 100000)
    assert host.memory() == host.HostMemory(64 * GB, 4 * GB, 3 * GB)
    assert host.cores() == 0.5


def test_a_path_of_the_host_inside_a_container(files: Files) -> None:
    files.write("proc/self/cgroup", "0::/kubepods/pod1/c1")
    files.write("sys/fs/cgroup/memory.max", 2 * GB)
    files.write("sys/fs/cgroup/memory.current", 3 * GB)
    assert host.memory() == host.HostMemory(64 * GB, 2 * GB, 0)


@pytest.mark.parametrize("text", ["", "max", "-1", "x y z", "9" * 30])
def test_what_is_no_limit_is_none(files: Files, text: str) -> None:
    files.write("proc/self/cgroup", "0::/\nnonsense\n")
    files.write("sys/fs/cgroup/memory.max", text)
    files.write("sys/fs/cgroup/memory.current", 5)
    files.write("sys/fs/cgroup/cpu.max", text)
    assert host.memory().limit is None
    assert host.cores() == 16


def test_the_real_machine_has_memory_and_processors() -> None:
    found = host.memory()
    assert 0 < found.available <= found.total
    assert 0 < host.cores() <= host.usable_cores()
    assert host.peak_resident() > 1 << 20
