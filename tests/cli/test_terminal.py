"""Nothing from data, files, models or names reaches a terminal as a control character, and no name forges a line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cli_run import arguments, cli, cli_process, environment
from qlora_fast.cli import console, escape, main
from qlora_fast.errors import ConfigError, DataError

EVIL = "\x1b[2J\x1b]0;title\x07"
NOT_SHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@given(st.text(st.characters(), max_size=40))
def test_whatever_the_text_no_control_character_is_left(value: str) -> None:
    for safe in (
        escape.text(value),
        escape.line(value),
        escape.message(value),
        escape.json(json.dumps(value, ensure_ascii=False)),
    ):
        assert not NOT_SHOWN.search(safe)
        safe.encode()
    assert json.loads(escape.json(json.dumps(value, ensure_ascii=False))) == value
    assert "\n" not in escape.line(value).strip("\n")
    assert all(line.startswith("  ") for line in escape.message(value).split("\n")[1:])


def test_ordinary_text_stays_as_it_is() -> None:
    for value in ("plain", "世界 👩‍🚀 é", "a\tb", "–100 → “x”"):
        assert escape.text(value) == escape.line(value) == escape.message(value) == value
    assert escape.line("\nnext: x\n") == "\nnext: x\n"
    assert escape.message("1 problem\n  a.yaml:1: `x`") == "1 problem\n  a.yaml:1: `x`"


def test_every_way_to_print_is_safe(capsys: pytest.CaptureFixture[str]) -> None:
    name = f"x{EVIL}\nerror: forged"
    console.out(name)
    console.out_piece(name.replace("\n", ""))
    console.out_json({name: name})
    console.out_markup(name.replace("\n", "").replace("[", "("))
    console.note(name)
    console.warn(name)
    console.fail(ConfigError(f"no file `{name}`", hint=name))
    console.rows_out([(name, name)])
    console.table_out([("a", "b"), (name, "1")])
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert not NOT_SHOWN.search(text)
        assert not [line for line in text.splitlines() if line.startswith("error: forged")]


def test_names_and_data_cannot_write_to_the_terminal(model_dir: Path, tmp_path: Path) -> None:
    evil = tmp_path / f"d{EVIL}\nerror: forged.json"
    rows = [{"instruction": f"q{EVIL}\u202e\x9b", "output": f"a{EVIL}"}, {"instruction": "q", "output": ""}]
    evil.write_text(json.dumps(rows))
    model = f"model_name_or_path={model_dir}"
    for words in (
        ("prep", evil, model),
        ("prep", evil, model, "--json"),
        ("inspect", evil, model),
        ("inspect", evil, "--row", "0", model),
        ("inspect", evil, "--row", "1", model),
        ("prep", tmp_path / f"missing{EVIL}\nhint: forged.json", model),
        ("config", "keys", f"x{EVIL}\nerror: forged"),
        ("train", f"x{EVIL}\nerror: forged.yaml"),
    ):
        ran = cli(*words, cwd=tmp_path)
        for text in (ran.out, ran.err):
            assert not NOT_SHOWN.search(text), (words, text)
            assert not [line for line in text.splitlines() if line.startswith(("error: forged", "hint: forged"))], words


def test_a_name_that_is_not_utf8_is_shown_escaped(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    shutil.copytree(model_dir, tmp_path / "model", dirs_exist_ok=True)
    missing = b"no\xff\xfesuch.json".decode("utf-8", "surrogateescape")
    ran = cli_process("prep", missing, "model_name_or_path=model", cwd=tmp_path)
    assert ran.status == 1
    assert "Traceback" not in ran.err


def test_an_endless_stdin_is_refused_before_it_fills_the_memory(
    model_dir: Path,
) -> None:
    endless = subprocess.Popen(["yes", "y"], stdout=subprocess.PIPE)
    assert endless.stdout is not None
    try:
        ran = subprocess.run(
            arguments("chat", model_dir),
            stdin=endless.stdout,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=60,
        )
    finally:
        endless.kill()
        endless.stdout.close()
        endless.wait()
    assert ran.returncode == 1
    assert "more than 16 MiB" in ran.stderr


def test_input_at_the_limit_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    monkeypatch.setattr(console, "MOST_INPUT", 8)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"12345678")))
    assert console.read_input() == "12345678"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"123456789")))
    with pytest.raises(DataError):
        console.read_input()


def test_an_error_is_printed_also_when_nothing_more_can_be_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(**_: bool) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(console, "rich", full)
    console.fail(DataError("no `file`", hint="another"))
    assert capsys.readouterr().err == "error: no `file` (hint: another)\n"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("unable to mmap 5 bytes from file <x>: Cannot allocate memory (12)")]
)
def test_memory_that_runs_out_is_an_error_and_another_failure_stays_a_bug(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: object, raised: Exception = error, **__: object) -> None:
        raise raised

    monkeypatch.setattr(click.Group, "main", run)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "error: out of memory: " in capsys.readouterr().err
    error.args = ("shapes differ",)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError):
            main()


@pytest.mark.parametrize(
    ("error", "gpu"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (MemoryError(), False),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), False),
    ],
)
def test_the_hint_is_about_the_memory_that_ran_out(
    error: Exception, gpu: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(click.Group, "main", run)
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().err
    assert ("nvidia-smi" in shown, "ulimit" in shown) == (gpu, not gpu)
