"""What lies at a place, and the message for a name with nothing that fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qlora_fast.config.paths import expanded
from qlora_fast.errors import ArtifactError
from qlora_fast.hub import places, resolve


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (("run.json", "adapter_config.json"), "a run"),
        (("adapter_config.json", "adapter_model.safetensors", "config.json"), "an adapter"),
        (("manifest.json", "checksums.json"), "prepared data"),
        (("config.json", "model-00001-of-00002.safetensors"), "a model"),
        (("config.json", "rows.json"), None),
        (("manifest.json", "rows.json"), None),
        ((), None),
    ],
)
def test_the_kind_of_a_folder(files: tuple[str, ...], kind: str | None, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    assert places.kind_of(tmp_path) == kind


@pytest.mark.parametrize(
    "name",
    [
        "./owner/name",
        "owner/name/more",
        "/a",
        "~/a",
        "a.gguf",
        "my run",
        "rün",
        "runs/x/",
        "a--b",
        "a..b",
        "$X/a",
        "x" * 97,
        "-a",
    ],
)
def test_what_can_only_be_a_path_is_not_looked_for_on_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for look in (resolve.tokenizer_folder, resolve.model_path):
        with pytest.raises(ArtifactError, match=r"^no (folder|model file) `"):
            look(name)
    places.refuse_path("owner/name")
    places.refuse_path("name")
    places.refuse_path("Qwen/Qwen2.5-0.5B_x.v1")


def test_a_link_to_nothing_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("name").symlink_to("gone")
    with pytest.raises(ArtifactError, match="is a link to `gone`, which is not there"):
        places.refuse_path("name")


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "is an empty path"),
        ("a\0b", "contains a NUL character"),
        ("x" * 256, "is longer than a file's name can be"),
        ("x/" * 3000, "is longer than a file's name can be"),
        ("loop", "is a link that leads to itself"),
        ("loop/x", "is a link that leads to itself"),
        ("\ud800", "is not UTF-8"),
        ("file/x", None),
        ("gone", None),
        ("x" * 255, None),
    ],
)
def test_a_path_that_no_file_can_have_is_refused_at_the_door(
    path: str, problem: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("file").touch()
    found = expanded(path)
    assert found[0] == path
    assert (found[1] or "").startswith(problem or "")
    assert (found[1] is None) == (problem is None)


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"GGUF\x03\0\0\0", b"nothing of the kind", b"GGUF\x03\0\0\0" + b"\xff" * 4000]
)
def test_a_damaged_gguf_file_is_named(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(content)
    for look in (resolve.tokenizer_folder, resolve.model_path):
        with pytest.raises(ArtifactError, match="cannot be converted") as caught:
            look(str(gguf))
        assert "damaged" in str(caught.value.hint)
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_what_is_no_model_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "below" / "model").mkdir(parents=True)
    (tmp_path / "below" / "model" / "config.json").write_text("{}")
    for look in (resolve.tokenizer_folder, resolve.model_path):
        with pytest.raises(ArtifactError, match="is an adapter, not a model") as caught:
            look(str(tmp_path / "adapter"))
        assert "adapter_name_or_path=" in str(caught.value.hint)
        with pytest.raises(ArtifactError, match=r"it has no config\.json") as caught:
            look(str(tmp_path / "below"))
        assert f"`{tmp_path / 'below' / 'model'}`" in str(caught.value.hint)
