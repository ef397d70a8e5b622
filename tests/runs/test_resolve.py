"""What a name refers to: every command gets the same answer, and the same message where there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cli_run import cli
from qlora_fast.errors import ArtifactError
from qlora_fast.runs.resolve import target_of
from qlora_fast.train.resume import starting_point
from tiny_folder import trained

SETTINGS = {
    "save_strategy": "steps",
    "save_steps": 2,
    "num_train_epochs": 1,
    "val_size": 8,
    "load_best_model_at_end": "true",
}


@pytest.fixture(scope="module")
def run(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints, best/ and last/, in a project that has its base model in models/base."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(model_dir, project / "models" / "base")
    return trained(project, project / "models" / "base", **SETTINGS)


def foreign(folder: Path, run: Path, **changes: object) -> Path:
    """An adapter as PEFT writes it: nothing of ours beside it."""
    folder.mkdir(parents=True)
    shutil.copy(run / "adapter_model.safetensors", folder)
    config = json.loads((run / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    return folder


def test_each_part_of_a_run_is_found(run: Path) -> None:
    checkpoint = sorted(run.glob("checkpoint-*"))[0]
    for path, kind in ((run, "run"), (run / "best", "best"), (run / "last", "last"), (checkpoint, "checkpoint")):
        found = target_of(path)
        assert (found.kind, found.adapter, found.run) == (kind, path, run)
        assert found.tokenizer() == target_of(run).tokenizer(), "a checkpoint is asked as the run is"
    assert target_of(run).run_folder() == run
    with pytest.raises(ArtifactError, match="is an adapter in the run") as caught:
        target_of(run / "best").run_folder()
    assert str(run) in str(caught.value.hint)


def test_a_foreign_adapter_names_its_base_and_its_template_is_the_models_own(run: Path, tmp_path: Path) -> None:
    found = target_of(foreign(tmp_path / "peft", run))
    assert (found.kind, found.run) == ("adapter", None)
    assert found.base() == str(run.parent / "models" / "base")
    assert found.tokenizer().template_name == "qwen3"
    nameless = target_of(foreign(tmp_path / "nameless", run, base_model_name_or_path=None))
    with pytest.raises(ArtifactError, match="does not name its base model") as caught:
        nameless.base()
    assert "--base" in str(caught.value.hint)
    assert nameless.base("other") == "other"


def test_models_and_what_is_nothing_of_the_kind(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = target_of(run.parent / "models" / "base")
    assert (model.kind, model.adapter, model.run) == ("model", None, None)
    assert target_of("owner/name").kind == "model"
    with pytest.raises(ArtifactError, match="is a base model, not an adapter"):
        model.adapter_folder()
    with pytest.raises(ArtifactError, match="is a base model, not a run"):
        model.run_folder()
    with pytest.raises(ArtifactError, match="not a run, an adapter or a model") as caught:
        target_of(run.parent)
    assert f"`{run}`" in str(caught.value.hint), "a folder of runs: the runs in it"
    with pytest.raises(ArtifactError, match="no adapter") as caught:
        target_of(run / "checkpoint-99999")
    assert "checkpoint-" in str(caught.value.hint)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ArtifactError, match="is a file"):
        target_of(tmp_path / "x.json")
    monkeypatch.setenv("RUNS", str(run.parent))
    monkeypatch.setenv("HOME", str(run.parent))
    assert target_of(f"$RUNS/{run.name}").adapter == target_of(f"~/{run.name}").adapter == run


def test_an_unfinished_run_names_its_checkpoints(run: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    shutil.copytree(run, stopped)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (stopped / name).unlink()
    found = target_of(stopped)
    assert found.kind == "run"
    with pytest.raises(ArtifactError, match="has not finished") as caught:
        found.adapter_folder()
    assert "checkpoint-" in str(caught.value.hint)


def test_a_project_that_was_moved_still_finds_its_base(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(run.parent, moved)
    config = moved / run.name / "config.yaml"
    old = str(run.parent / "models" / "base")
    config.write_text(config.read_text().replace(old, "/gone/project/models/base"))
    assert target_of(moved / run.name).base() == str(moved / "models" / "base")
    config.write_text(config.read_text().replace("/gone/project/models/base", "models/base"))
    assert target_of(moved / run.name).base() == str(moved / "models" / "base")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "is a run, not a checkpoint in it"),
        ("best", "is an adapter, not a checkpoint"),
        ("last", "is an adapter, not a checkpoint"),
        ("../peft", "is not a checkpoint of qlora-fast"),
        ("../models/base", "is a base model, not a checkpoint"),
        ("..", "is not a checkpoint of qlora-fast"),
        ("checkpoint-99999", "no checkpoint `"),
    ],
)
def test_resume_says_what_a_folder_is_that_is_no_checkpoint(run: Path, name: str, says: str) -> None:
    if not (run.parent / "peft").exists():
        foreign(run.parent / "peft", run)
    folder = (run / name).resolve()
    with pytest.raises(ArtifactError, match=says) as caught:
        starting_point(run, str(folder))
    newest = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert newest.name in str(caught.value.hint) or "another program" in str(caught.value.hint)
    assert starting_point(run, str(newest)) == newest


@pytest.mark.slow
def test_every_command_takes_a_checkpoint_and_gives_one_message(run: Path, tmp_path: Path) -> None:
    checkpoint = sorted(run.glob("checkpoint-*"))[0]
    data = tmp_path / "d.json"
    data.write_text(json.dumps([{"instruction": "Say it.", "output": "It."}]))
    said = cli("chat", checkpoint, "--prompt", "Hi", "--max-new-tokens", "2")
    assert said.status == 0, said.err
    assert cli("evaluate", checkpoint, f"dataset={data}").status == 0
    assert cli("merge", checkpoint, "-o", tmp_path / "merged", "--no-check").status == 0
    missing = run / "checkpoint-99999"
    errors = {
        cli(*words).err
        for words in (
            ("chat", missing, "--prompt", "x"),
            ("evaluate", missing),
            ("merge", missing, "-o", tmp_path / "m"),
        )
    }
    assert len(errors) == 1
    assert "no adapter" in errors.pop()


def test_another_base_is_a_path_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "/nowhere/b"}')
    monkeypatch.setenv("HOME", str(tmp_path))
    assert target_of(folder).base("~/models/b") == str(tmp_path / "models" / "b")


def test_commands_in_hints_can_be_pasted(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "my run")
    (tmp_path / "my data.json").write_text('[{"instruction": "q", "output": "a"}]')
    for words, command in [
        (("report", "my run"), "qlora-fast prep --config 'my run/config.yaml'"),
        (("report", "my data.json"), "qlora-fast prep 'my data.json'"),
        (("template", "check", "my run/checkpoint-2"), "my run/checkpoint-2' -o FOLDER`"),
    ]:
        assert command in cli(*words, cwd=tmp_path).err
    assert cli("init", "my data.json", cwd=tmp_path).status == 0
    made = (tmp_path / "my data.yaml").read_text()
    assert "qlora-fast train 'my data.yaml'" in made
    assert "qlora-fast init 'my data.json'" in made


@pytest.mark.parametrize("command", ["train", "plan", "memory", "sweep"])
def test_a_run_in_the_place_of_a_config_is_answered_with_its_config(command: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(run)
    ran = cli(command, "run", cwd=tmp_path)
    assert ran.status == 1
    assert "`run` is a folder" in ran.err
    assert "configs in it: run/config.yaml" in ran.err
