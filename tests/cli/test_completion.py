"""What the shell offers at the press of TAB."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from cli_run import cli as run_cli
from qlora_fast.cli import COMMANDS, cli
from qlora_fast.config import KEYS


def offered(*words: str) -> list[tuple[str, str]]:
    """(type, value) of each completion of the last word."""
    complete = ShellComplete(cli, {}, "qlora-fast", "_QLORA_FAST_COMPLETE")
    return [(item.type, item.value) for item in complete.get_completions(list(words[:-1]), words[-1])]


def values(*words: str) -> list[str]:
    return [value for kind, value in offered(*words) if kind == "plain"]


def test_commands_are_offered() -> None:
    assert values("") == list(COMMANDS)
    assert values("pl") == ["plan"]


def test_every_setting_is_offered_behind_the_config() -> None:
    assert values("train", "x.yaml", "") == [f"{name}=" for name in KEYS]
    assert values("train", "x.yaml", "lora_r") == ["lora_rank="]
    assert values("plan", "x.yaml", "seed=1", "warmup_") == ["warmup_ratio=", "warmup_steps="]


def test_other_commands_that_take_settings_offer_them_too() -> None:
    for command in ("evaluate", "sweep", "inspect"):
        assert "cutoff_len=" in values(command, "x", "cutoff")


def test_the_first_word_of_train_is_a_file() -> None:
    assert offered("train", "")[0][0] == "file"


def test_words_of_prep_are_files_or_settings() -> None:
    assert offered("prep", "cut") == [("file", "cut"), ("plain", "cutoff_len=")]


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("packing=", ["packing=exact", "packing=dense", "packing=bucketed", "packing=none"]),
        ("packing=d", ["packing=dense"]),
        ("bf16=", ["bf16=true", "bf16=false"]),
        ("resume_from_checkpoint=t", ["resume_from_checkpoint=true"]),
        ("quantization_bit=", ["quantization_bit=4", "quantization_bit=8"]),
        ("report_to=t", ["report_to=tensorboard", "report_to=trackio"]),
        ("lora_rank=", []),
        ("nonsense=", []),
    ],
)
def test_values_are_offered_behind_a_setting(typed: str, completed: list[str]) -> None:
    assert values("train", "x.yaml", typed) == completed


def test_bash_which_splits_at_the_equals_sign_gets_bare_values() -> None:
    assert values("train", "x.yaml", "packing", "=") == ["exact", "dense", "bucketed", "none"]
    assert values("train", "x.yaml", "packing", "=", "buck") == ["bucketed"]
    assert offered("train", "x.yaml", "dataset", "=", "da") == [("file", "da")]


def test_names_of_settings_are_offered_to_config_keys() -> None:
    assert values("config", "keys", "adam_") == ["adam_beta1", "adam_beta2", "adam_epsilon"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_reads(shell: str, tmp_path: Path) -> None:
    script = run_cli("completion", shell)
    assert script.status == 0, script.err
    assert "_QLORA_FAST_COMPLETE" in script.out
    if shutil.which(shell):
        (tmp_path / "script").write_text(script.out)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, capture_output=True)


def test_an_unknown_shell_is_an_error_of_the_command_line() -> None:
    assert run_cli("completion", "tcsh").status == 2


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_a_real_bash_completes_a_setting_and_its_value(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "qlora-fast"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m qlora_fast "$@"\n')
    program.chmod(0o755)
    (tmp_path / "rc").write_text(
        f"PS1='ready> '\nbind 'set enable-bracketed-paste off'\n{run_cli('completion', 'bash').out}"
    )
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(PATH=f"{program.parent}:{os.environ['PATH']}", TERM="dumb")
        os.execvp("bash", ["bash", "--noprofile", "--rcfile", str(tmp_path / "rc"), "-i"])
    try:
        expect(terminal, "ready> ")
        os.write(terminal, b"echo train; qlora-fast train x.yaml neft\t")
        expect(terminal, "neftune_noise_alpha=")
        os.write(terminal, b"5 packing=buck\t")
        expect(terminal, "packing=bucketed")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)


def expect(terminal: int, text: str) -> None:
    """Read until ``text`` has come."""
    seen, until = "", time.monotonic() + 60
    while text not in seen:
        assert time.monotonic() < until, f"{text!r} did not come: {seen!r}"
        if select.select([terminal], [], [], 0.5)[0]:
            seen += os.read(terminal, 4096).decode(errors="replace")
