"""A manifest tells a complete folder from a damaged one, whatever was done to either."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from qlora_fast.errors import ArtifactError
from qlora_fast.hub import manifest
from qlora_fast.runs.layout import MANIFEST


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.json").write_text('{"x": 1}')
    (tmp_path / "b.safetensors").write_bytes(bytes(range(256)))
    manifest.write(tmp_path, {"update": 7})
    return tmp_path


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


HURT: list[Callable[[Path], None]] = [
    lambda p: p.unlink(),
    lambda p: p.write_bytes(b""),
    lambda p: p.write_bytes(p.read_bytes()[:-1]),
    lambda p: p.write_bytes(p.read_bytes() + b"\0"),
    _flip,
    _as_folder,
]


def test_a_complete_folder_passes_and_keeps_what_is_known_of_it(folder: Path) -> None:
    assert manifest.damage(folder, ["a.json"]) is None
    assert manifest.about(folder) == {"update": 7}
    manifest.verify(folder, "adapter")


def test_a_file_that_is_not_listed_does_not_matter(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    assert manifest.damage(folder) is None


def test_a_required_file_must_be_listed(folder: Path) -> None:
    assert manifest.damage(folder, ["c"]) == f"{MANIFEST} does not list c"


@pytest.mark.parametrize("hurt", HURT)
@pytest.mark.parametrize("name", ["a.json", "b.safetensors", MANIFEST])
def test_any_change_of_any_file_is_found_and_named(folder: Path, name: str, hurt: Callable[[Path], None]) -> None:
    hurt(folder / name)
    problem = manifest.damage(folder)
    assert problem is not None
    assert name in problem
    if (folder / MANIFEST).exists():
        with pytest.raises(ArtifactError, match=r"the adapter in .* is damaged"):
            manifest.verify(folder, "adapter")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '"x"', '{"files":[]}', '{"files":{"../x":{"bytes":0,"sha256":""}}}', '{"files":{"a.json":5}}',
     "[" * 50_000, '{"files":{"a.json":{"bytes":"8","sha256":1}}}'],
)  # fmt: skip
def test_a_manifest_of_any_other_shape_is_damage_and_not_a_traceback(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    problem = manifest.damage(folder)
    assert problem is not None
    assert problem.startswith(f"{MANIFEST} is unreadable")
    assert manifest.about(folder) == {}


def test_without_what_is_known_of_the_folder_the_format_is_that_of_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    manifest.write(tmp_path)
    stored = json.loads((tmp_path / MANIFEST).read_text())
    assert sorted(stored) == ["files", "format_version", "sha256"]


def test_what_was_written_by_no_manifest_passes(tmp_path: Path) -> None:
    manifest.verify(tmp_path, "adapter")


def test_nothing_is_verified_where_nothing_is_to_be(folder: Path) -> None:
    (folder / "a.json").unlink()
    (folder / MANIFEST).write_text("{}")
    assert manifest.problems(folder)
    assert manifest.problems(folder, "off") == []
