"""A base model that has moved with its run is found; one that has not is named with the option that gives its place."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from qlora_fast.errors import ArtifactError
from qlora_fast.hub.resolve import EMBEDDED, found_base


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_where_it_was(tmp_path: Path) -> None:
    base = model(tmp_path / "models" / "b1")
    assert found_base(str(base), tmp_path / "runs" / "x") == str(base)


def test_moved_together_with_its_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = model(tmp_path / "old" / "models" / "b1")
    (tmp_path / "old" / "runs" / "x").mkdir(parents=True)
    shutil.move(tmp_path / "old", tmp_path / "new")
    with caplog.at_level(logging.WARNING):
        found = found_base(str(base), tmp_path / "new" / "runs" / "x")
    assert found == str(tmp_path / "new" / "models" / "b1")
    assert str(base) in caplog.text


def test_a_relative_path_of_another_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = model(tmp_path / "work" / "b1")
    (tmp_path / "work" / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    assert found_base("b1", tmp_path / "work" / "run") == str(base)


@pytest.mark.parametrize("name", ["/nowhere/b1", "./b1", "a/b/c", "b1.gguf"])
def test_what_is_nowhere_is_named_with_the_option(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not found") as caught:
        found_base(name, tmp_path / "run")
    assert "--base FOLDER" in (caught.value.hint or "")


@pytest.mark.parametrize("name", [EMBEDDED, "owner/name", "name"])
def test_names_that_are_no_paths_stay(name: str, tmp_path: Path) -> None:
    assert found_base(name, tmp_path / "run") == name
