"""The examples come with the package: printed, each is a config of its own that loads to what the file loads to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli_run import cli
from paths import ROOT
from qlora_fast.config import example, load
from qlora_fast.errors import ConfigError

NAMES = sorted(example.names())


def test_the_files_of_the_repository_are_those_of_the_package() -> None:
    assert {"base", "baseline", "exp1", "exp4", "gpu-8gb", "qwen3-8b-qlora"} <= set(NAMES)
    for path in example.names().values():
        in_repository = ROOT / "configs" / path.relative_to(example.FOLDER)
        assert in_repository.resolve() == path.resolve()


@pytest.mark.parametrize("name", NAMES)
def test_a_printed_example_needs_no_other_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(example.text(name), encoding="utf-8")
    assert load(tmp_path / "my.yaml").config == load(example.names()[name]).config
    about = example.about(example.names()[name])
    assert about.endswith(".")
    assert not re.search(r"\. \d+\.$", about), "ends inside of a figure"
    assert "configs/" not in example.text(name), "a file that lies in the repository alone"


def test_an_unknown_example_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        example.text("gpu-8g")
    assert "gpu-8gb" in (caught.value.hint or "")


def test_the_command_prints_from_any_folder(tmp_path: Path) -> None:
    ran = cli("config", "example", "exp1", cwd=tmp_path)
    assert (ran.status, ran.out) == (0, example.text("exp1"))
    listed = cli("config", "example", cwd=tmp_path)
    assert all(name in listed.out for name in NAMES)
