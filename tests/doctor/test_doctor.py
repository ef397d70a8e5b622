"""`qlora-fast doctor` sees what is there, names what is broken, and never fails itself."""

from __future__ import annotations

import os
import shutil
import sys
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cli_run import cli
from qlora_fast import _core, doctor
from qlora_fast.doctor import Finding, fast_paths, machine, packages
from qlora_fast.model import host

Usage = namedtuple("Usage", "total used free")


def one(findings: Any, name: str) -> Finding:
    (found,) = [f for f in findings if f.name == name]
    return found


def test_the_machine_of_the_tests_is_fit() -> None:
    ran = cli("doctor", "--json")
    assert ran.status == 0, ran.out
    report = ran.json
    assert report["ok"]
    found = {f["name"]: f for group in doctor.GROUPS for f in report[group]}
    assert list(found["torch"]) == ["name", "state", "found", "mend"]
    assert found["torch"]["found"] == torch.__version__.split("+")[0] or torch.__version__ in found["torch"]["found"]
    assert "release build" in found["qlora-fast core"]["found"]
    assert found["attention"]["state"] == "ok"
    assert found["kernels"]["state"] == "ok"
    assert found["4 bits (cpu)"]["state"] == "ok"


def test_a_person_sees_groups_and_a_verdict() -> None:
    ran = cli("doctor")
    assert ran.status == 0
    assert [line for line in ran.out.splitlines() if line in doctor.GROUPS] == list(doctor.GROUPS)
    assert ran.out.splitlines()[-1].startswith("ready for training")


def test_the_column_of_names_holds_the_longest() -> None:
    from qlora_fast.cli.doctor import _NAMES

    assert max(len(finding.name) for _, finding in doctor.findings()) <= _NAMES


def test_a_person_sees_each_finding_when_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from qlora_fast.cli import console

    seen: list[str] = []

    def slow() -> Any:
        assert any("disk" in line for line in seen), "shown before the slow check has begun"
        yield Finding("gpu", "ok", "one")

    monkeypatch.setattr(console, "out", lambda text="": seen.append(text))
    monkeypatch.setattr(doctor, "GROUPS", {"machine": (lambda: [Finding("disk", "ok", "large")], slow)})
    assert cli("doctor").status == 0
    assert "  ok      gpu              one" in seen


def test_a_check_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def cpu() -> Any:
        yield Finding("cpu", "ok", "seen before the failure")
        raise RuntimeError("no /proc\nsecond line")

    def numbers() -> Any:
        raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(doctor, "GROUPS", {"machine": (cpu, numbers)})
    first, second, third = doctor.examine()["machine"]
    assert (first.state, second.state, third.state) == ("ok", "warning", "broken")
    assert second.found == "could not be looked at: RuntimeError: no /proc"


def test_a_broken_finding_is_exit_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"machine": (lambda: [Finding("outputs (here)", "broken", "not writable", "run elsewhere")],)}
    monkeypatch.setattr(doctor, "GROUPS", broken)
    ran = cli("doctor")
    assert ran.status == 1
    assert "BROKEN" in ran.out
    assert "→ run elsewhere" in ran.out
    assert "1 broken" in ran.out


@pytest.mark.parametrize(
    ("reason", "off", "state"), [(None, 0.0, "ok"), (None, 0.5, "broken"), ("no C compiler", 0.0, "note")]
)
def test_kernels_are_tried_and_a_wrong_one_is_broken(
    reason: str | None, off: float, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qlora_fast.model import load, patch
    from qlora_fast.model.kernels import rms_norm

    # A device that computes and is not called a CPU.
    monkeypatch.setattr(load, "pick_device", lambda: SimpleNamespace(type="cuda", __str__=lambda: "cpu"))
    monkeypatch.setattr(patch, "unusable", lambda _: reason)
    linspace = torch.linspace
    monkeypatch.setattr(torch, "linspace", lambda *a, device: linspace(*a))
    monkeypatch.setattr(rms_norm, "forward", lambda x, w, eps, plus: rms_norm.reference(x, w, eps) + off)
    (found,) = fast_paths.kernels()
    assert found.state == state
    assert (reason or "Triton kernels run") in found.found


@pytest.mark.parametrize(("reason", "state"), [(None, "ok"), ("there is no C++ compiler (g++)", "note")])
def test_a_missing_compiler_is_a_note(reason: str | None, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from qlora_fast.model import compiled

    monkeypatch.setattr(compiled, "missing", lambda _: reason)
    (found,) = fast_paths.compiling()
    assert found.state == state
    assert (reason or "can be compiled") in found.found


@pytest.mark.parametrize(("free", "state"), [(5e8, "warning"), (1e7, "broken"), (1e12, "ok")])
def test_little_disk_is_seen(free: float, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2e12, 0, free))
    assert {f.state for f in machine.disks()} == {state}


def test_a_folder_that_may_not_be_written_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert {f.state for f in machine.disks()} == {"broken"}


def test_a_container_with_fewer_cores_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cores", lambda: 0.5)
    (found,) = machine.cpu()
    assert (found.state, "threads: 1" in (found.hint or "")) == ("warning", True)


def gpu(monkeypatch: pytest.MonkeyPatch, *, capability: tuple[int, int], built: list[str], free: float = 20e9) -> None:
    monkeypatch.setattr(machine, "_nvidia_smi", lambda: ["NVIDIA X, 24576 MiB, driver 570.1"])
    fake = {
        "is_available": lambda: True, "device_count": lambda: 1, "get_arch_list": lambda: built,
        "get_device_capability": lambda *_: capability, "mem_get_info": lambda *_: (free, 24e9),
        "get_device_name": lambda *_: "NVIDIA X", "is_bf16_supported": lambda: capability[0] >= 8,
    }  # fmt: skip
    for name, value in fake.items():
        monkeypatch.setattr(torch.cuda, name, value)


@pytest.mark.parametrize(
    ("capability", "built", "state"),
    [
        ((8, 6), ["sm_80", "sm_90"], "ok"),  # binary of its generation
        ((12, 0), ["sm_80", "sm_90"], "broken"),  # newer than the build, and no PTX
        ((12, 0), ["sm_90", "compute_90"], "ok"),  # PTX goes up
        ((6, 1), ["sm_75", "sm_80"], "broken"),  # older than the build
        ((9, 0), ["sm_90a"], "ok"),
    ],
)
def test_a_gpu_that_torch_has_no_kernels_for_is_broken(
    capability: tuple[int, int], built: list[str], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(monkeypatch, capability=capability, built=built)
    found = one(machine.gpus(), "gpu 0")
    assert found.state == state
    assert f"compute capability {capability[0]}.{capability[1]}" in found.found
    assert "driver 570.1" in found.found


def test_a_gpu_in_use_and_one_that_torch_cannot_use_are_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, capability=(8, 0), built=["sm_80"], free=1e9)
    assert one(machine.gpus(), "gpu 0").state == "warning"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = one(machine.gpus(), "gpu")
    assert (found.state, "torch cannot use it" in found.found) == ("warning", True)
    assert found.hint


def test_an_older_gpu_is_told_of_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, capability=(7, 5), built=["sm_75"])
    (found,) = fast_paths.numbers()
    assert "fp16: true" in (found.hint or "")


def test_a_debug_core_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_core", SimpleNamespace(__version__=_core.__version__, BUILD_PROFILE="debug"))
    (found,) = packages.core()
    assert found.state == "warning"


def test_packages_are_held_to_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch>=999", "numpy>=1", "nowhere-to-be-found>=1", "gguf>=999", "wandb; extra == 'dev'"]
    monkeypatch.setattr(packages.metadata, "requires", lambda _: wanted)
    found = {f.name: f for f in packages.required()}
    assert {name: f.state for name, f in found.items()} == {
        "torch": "broken", "numpy": "ok", "nowhere-to-be-found": "warning", "gguf": "warning",
    }  # fmt: skip
    assert found["torch"].hint == "pip install 'torch>=999'"


def test_attention_that_mixes_samples_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_paths, "_attention_error", lambda *_: 0.7)
    (found,) = fast_paths.attention()
    assert found.state == "broken"


def test_a_bitsandbytes_that_does_not_load_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    (found,) = fast_paths.quantization()
    assert (found.state, found.name) == ("warning", "4 bits")


def test_idle_cores_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (found,) = fast_paths.threads()
    assert (found.state, "OMP_NUM_THREADS=1" in (found.hint or "")) == ("warning", True)
