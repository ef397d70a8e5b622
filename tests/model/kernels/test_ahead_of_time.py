"""The kernels compile for GPUs that are not here, spill nothing, and read and write 16 bytes at a time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from paths import ROOT


def compile_for(*capabilities: int) -> str:
    """The table, from a process of its own: this one has Triton's interpreter."""
    command = [sys.executable, "-m", "benches.kernels_aot", "--capability", *map(str, capabilities)]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_hopper() -> None:
    assert compile_for(90).count("\n") > 10


@pytest.mark.slow
def test_every_generation_and_the_table_of_the_docs() -> None:
    page = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    table = page.split("docs/kernels.md -->\n")[1].split("\n<!-- end")[0]
    ours, theirs = (
        [line.split("|") for line in text.splitlines()] for text in (compile_for(80, 89, 90, 100, 120), table)
    )
    # Another version of Triton takes other registers: names, reasons and columns have to be the same.
    assert [line[1] for line in ours] == [line[1] for line in theirs]
    assert [line[-2] for line in ours] == [line[-2] for line in theirs]
    assert ours[0] == theirs[0]
