"""`qlora-fast doctor PATH` names every file that is damaged, missing or came later; readers refuse what it calls broken."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cli_run import cli
from qlora_fast.chat.commands import open_chat
from qlora_fast.config import load
from qlora_fast.doctor import Finding, examine_artifact
from qlora_fast.errors import ArtifactError
from qlora_fast.hub import manifest, resolve
from qlora_fast.hub.manifest import MANIFEST, Verify
from qlora_fast.merge.merge import Options, merge_run
from qlora_fast.train.evaluate_run import subject_of
from tiny_folder import trained


@pytest.fixture(scope="module")
def made(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints, best and last, and the model merged from it."""
    folder = tmp_path_factory.mktemp("made")
    run = trained(
        folder, model_dir, num_train_epochs=1, max_steps=4, save_strategy="steps", save_steps=2, eval_strategy="steps",
        eval_steps=2, load_best_model_at_end="true", overwrite_output_dir="false",
    )  # fmt: skip
    merge_run(run, folder / "merged", Options(check_dtype=None))
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def findings(path: Path) -> dict[str, Finding]:
    return {finding.name: finding for group in examine_artifact(path).values() for finding in group}


def broken(path: Path) -> set[str]:
    return {name for name, finding in findings(path).items() if finding.state == "broken"}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_what_was_written_is_whole(made: Path) -> None:
    for path in (made / "run", made / "run" / "best", made / "run" / "checkpoint-4", made / "merged"):
        assert broken(path) == set(), path
    assert {"best/", "last/", "checkpoint-2/", "checkpoint-4/", "files"} <= set(findings(made / "run"))
    assert (made / "merged" / MANIFEST).is_file()


def test_every_damaged_or_missing_file_of_every_kind_is_named(copied: Path) -> None:
    """All at once: each is named by itself."""
    expected: dict[Path, set[str]] = {}
    for folder in (copied / "run", copied / "merged"):
        names = set()
        for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
            listing = file.parent / MANIFEST
            if not listing.is_file() or file.name not in manifest.listed(file.parent) or file.name == "README.md":
                continue
            if len(names) % 2:
                file.unlink()
            else:
                flip(file)
            names.add(str(file.relative_to(folder)))
        expected[folder] = names - {"Modelfile"}
    for folder, names in expected.items():
        assert broken(folder) == names
        assert len(names) > 5
    notes = findings(copied / "merged")
    assert notes["Modelfile"].state == "note"
    for part in ("best", "checkpoint-2"):
        (copied / "run" / part / MANIFEST).write_text("{}")
        assert f"{part}/{MANIFEST}" in broken(copied / "run")


def test_what_came_later_is_a_note_and_no_damage(copied: Path) -> None:
    (copied / "merged" / "mine.txt").write_text("x")
    (copied / "run" / "best" / "mine.txt").write_text("x")
    (copied / "run" / ".gone.tmp-999999").mkdir()
    assert findings(copied / "merged")["mine.txt"].state == "note"
    run = findings(copied / "run")
    assert run["best/mine.txt"].state == run[".gone.tmp-999999"].state == "note"
    assert not broken(copied / "run") | broken(copied / "merged")


@pytest.mark.parametrize(
    ("name", "content"), [("run.json", "[]"), ("trainer_state.json", "{"), ("all_results.json", "null"), ("trainer_log.jsonl", '{"a": 1}\n{"b"\n'), ("config.yaml", "lora_rank: many")]
)  # fmt: skip
def test_the_records_of_a_run_are_read(copied: Path, name: str, content: str) -> None:
    (copied / "run" / name).write_text(content)
    assert broken(copied / "run") == {name}
    assert "from where it came" not in str(findings(copied / "run")[name].hint)


def test_a_line_of_the_log_that_a_killed_run_left_unfinished_is_no_damage(copied: Path) -> None:
    with (copied / "run" / "trainer_log.jsonl").open("a") as file:
        file.write('{"b"')
    assert broken(copied / "run") == set()
    assert findings(copied / "run")["trainer_log.jsonl"].state == "note"


@pytest.mark.parametrize("lost", ["adapter_config.json", "adapter_model.safetensors", "config.yaml", "run.json"])
def test_a_finished_run_that_lost_a_file_is_damaged(copied: Path, lost: str) -> None:
    (copied / "run" / lost).unlink()
    assert broken(copied / "run") == {lost}


def test_a_finding_is_named_after_its_file(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied / "run")
    Path("run.json").write_text("[]")
    Path("all_results.json").write_text("[]")
    assert broken(Path()) == {"run.json", "all_results.json"}


def test_a_base_that_has_moved_is_a_warning(copied: Path) -> None:
    config = copied / "run" / "config.yaml"
    base = load(config).config.model_name_or_path
    config.write_text(config.read_text().replace(base, "/gone/models/other"))
    for part in ("run", "run/best"):
        assert broken(copied / part) == set()
        found = findings(copied / part)["base model"]
        assert found.state == "warning"
        assert "`/gone/models/other`" in found.found
        assert "--base FOLDER" in (found.hint or "")


def test_without_a_manifest_nothing_is_said_of_who_wrote_the_run(copied: Path) -> None:
    (copied / "run" / MANIFEST).unlink()
    assert findings(copied / "run")[MANIFEST].found == "not found: the bytes of the folder cannot be verified"


def test_progress_counts_the_bytes_of_all_folders(made: Path) -> None:
    for path, folders in (
        (made / "run", [made / "run", *(p.parent for p in (made / "run").glob(f"*/{MANIFEST}"))]),
        (made / "merged", [made / "merged"]),
        (made / "run" / "best", [made / "run" / "best"]),
    ):
        size = sum((f / name).stat().st_size for f in folders for name in manifest.listed(f) if name != MANIFEST)
        told: list[tuple[str, int, int]] = []
        examine_artifact(path, lambda *report, told=told: told.append(report))  # type: ignore[misc]
        assert told[0] == ("verifying", 0, size)
        assert told[-1] == ("verifying", size, size)
        assert len(told) > len(folders)
        assert told == sorted(told)


def test_what_another_program_wrote_is_held_to_its_shape(copied: Path) -> None:
    (copied / "merged" / MANIFEST).unlink()
    assert findings(copied / "merged")[MANIFEST].state == "note"
    (copied / "merged" / "config.json").write_text("[]")
    assert broken(copied / "merged") == {"config.json"}


def test_scripts_get_the_same_with_an_exit_status(copied: Path) -> None:
    def doctor(path: Path) -> tuple[int, Any]:
        ran = cli("doctor", path, "--json")
        return ran.status, ran.json

    status, report = doctor(copied / "merged")
    assert (status, report["ok"], list(report)) == (0, True, ["ok", "model"])
    flip(copied / "merged" / "model.safetensors")
    status, report = doctor(copied / "merged")
    assert (status, report["ok"]) == (1, False)
    assert [f["name"] for f in report["model"] if f["state"] == "broken"] == ["model.safetensors"]
    with pytest.raises(ArtifactError, match="holds nothing that can be verified"):
        examine_artifact(copied)


def test_readers_refuse_what_is_broken_as_far_as_verify_says(copied: Path) -> None:
    merged, run = copied / "merged", copied / "run"
    flip(merged / "model.safetensors")
    flip(run / "adapter_model.safetensors")
    for reader in (
        lambda: open_chat(str(merged)),
        lambda: open_chat(str(run)),
        lambda: subject_of(str(run), base_only=False),
        lambda: resolve.model_path(str(merged)),
        lambda: merge_run(run, copied / "again", Options(check_dtype=None)),
    ):
        with pytest.raises(ArtifactError, match=r"is damaged: .*model\.safetensors has other content"):
            reader()  # type: ignore[no-untyped-call]
    levels: tuple[Verify, ...] = ("quick", "off")
    for level in levels:
        resolve.model_path(str(merged), level)
        open_chat(str(run), verify=level)
    assert subject_of(str(run), base_only=False, settings={"verify": "quick"}).adapter == run
    (merged / "merge.json").unlink()
    with pytest.raises(ArtifactError, match=r"merge.json is missing"):
        resolve.model_path(str(merged), "quick")
    resolve.model_path(str(merged), "off")


def test_a_conversion_is_found_by_what_the_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model in another environment is not converted, and not stored, a second time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one, other = tmp_path / "one.gguf", tmp_path / "elsewhere" / "one.gguf"
    other.parent.mkdir()
    one.write_bytes(b"x")
    other.write_bytes(b"x")
    made = resolve._converted(one, "tokenizer", lambda _, folder: (folder / "t").write_text("1") and None)
    assert resolve._converted(other, "tokenizer", lambda *_: pytest.fail("made a second time")) == made
    other.write_bytes(b"y")
    changed = resolve._converted(other, "tokenizer", lambda _, folder: (folder / "t").write_text("2") and None)
    assert (made / "t").read_text() + (changed / "t").read_text() == "12"


def test_a_damaged_conversion_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"x")
    made = resolve._converted(
        gguf, "tokenizer", lambda _, folder: (folder / "tokenizer.json").write_text("{}") and None
    )
    flip(made / "tokenizer.json")
    assert resolve._converted(gguf, "tokenizer", lambda _, folder: (folder / "t").write_text("new") and None) == made
    assert (made / "t").read_text() == "new"
    assert resolve._converted(gguf, "tokenizer", lambda *_: pytest.fail("made a third time")) == made
    flip(made / "t")
    levels: tuple[Verify, ...] = ("quick", "off")
    for level in levels:
        monkeypatch.setattr(resolve, "_write_model", lambda *_: pytest.fail("verified at another level"))
        made.rename(made.with_name("model"))
        assert resolve.model_path(str(gguf), level) == str(made.with_name("model"))
        made.with_name("model").rename(made)


def test_the_output_of_another_program_is_an_adapter_and_no_damaged_run(made: Path, tmp_path: Path) -> None:
    """LLaMA-Factory's folders have a log of the name that ours has, and checkpoints without a manifest."""
    for folder in (tmp_path, tmp_path / "checkpoint-3"):
        folder.mkdir(exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(made / "run" / name, folder)
        for name in ("trainer_log.jsonl", "trainer_state.json", "all_results.json", "README.md"):
            (folder / name).write_text("{}\n")
    assert set(examine_artifact(tmp_path)) == {"adapter"}
    assert broken(tmp_path) == set()
