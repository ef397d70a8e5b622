"""A run resumes from the checkpoint that is named, in its own folder and from no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from parameter_run import Make, Run, go_on, maker
from qlora_fast.config import load
from qlora_fast.errors import ArtifactError
from qlora_fast.model import products
from qlora_fast.train import resume
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.kept import NOTHING_KEPT
from qlora_fast.train.run import train


@pytest.fixture
def run(model_dir: Path, tmp_path: Path) -> Make:
    return maker(model_dir, tmp_path)


@pytest.fixture
def made(run: Make) -> Run:
    """A whole run of 8 updates, with checkpoint-2, -4, -6 and -8, dropout, and the best evaluation at its end."""
    return run(
        save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2, lora_dropout=0.1, logging_steps=1
    )


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("checkpoint-*"))


def test_a_run_goes_on_from_the_named_checkpoint_to_the_same_end(
    made: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.relative_to(made.folder): p.read_bytes() for p in made.folder.rglob("*.safetensors")}
    kept = [entry["loss"] for entry in made.log if "loss" in entry]
    monkeypatch.chdir(made.folder.parent)  # a path is taken as it stands, from where the command is given
    with caplog.at_level("INFO", logger="qlora_fast"):
        go_on(made, Path("run/checkpoint-4"))
    assert "resuming from `run/checkpoint-4`, update 4 of 8" in caplog.text
    after = {p.relative_to(made.folder): p.read_bytes() for p in made.folder.rglob("*.safetensors")}
    assert {path: content for path, content in after.items() if "aside" not in str(path)} == before
    assert [entry["loss"] for entry in made.log if "loss" in entry] == kept
    aside = ["checkpoint-6.aside", "checkpoint-8.aside"]
    assert names(made.folder) == sorted(["checkpoint-2", "checkpoint-4", "checkpoint-6", "checkpoint-8", *aside])
    for name in aside:
        assert (made.folder / name / "adapter_model.safetensors").is_file(), "moved aside, not deleted"


def test_a_resumed_run_multiplies_as_its_checkpoint_did(
    run: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The probe decides otherwise when the run resumes, as it may near its limits or on another machine."""
    monkeypatch.setattr(products, "_NARROW", 16)

    def probe_finds(**seconds: float) -> None:
        monkeypatch.setattr(products, "_CHOSEN", {})
        monkeypatch.setattr(products, "measured", lambda *_: seconds)

    probe_finds(torch=4.0, onednn=9.0, bf16=1.0)
    made = run(save_strategy="steps", save_steps=2, logging_steps=1)
    adapter = made.folder / "adapter_model.safetensors"
    ended = adapter.read_bytes()
    assert json.loads((made.folder / "checkpoint-4" / "progress.json").read_text())["identity"]["products"] == [
        "torch",
        "bf16",
    ]

    probe_finds(torch=1.0, onednn=9.0, bf16=9.0)
    go_on(made, made.folder / "checkpoint-4")
    assert adapter.read_bytes() == ended, "bit for bit"
    assert "as in the checkpoint" in json.loads((made.folder / "run.json").read_text())["kernels"]["products"]["why"]

    probe_finds(torch=1.0)  # a processor or a torch without bf16 products
    go_on(made, made.folder / "checkpoint-2")
    assert "rounds differently" in caplog.text
    assert adapter.read_bytes() != ended


def test_going_back_twice_keeps_both(made: Run) -> None:
    for _ in range(2):
        go_on(made, made.folder / "checkpoint-6")
    assert {"checkpoint-8.aside", "checkpoint-8.aside.2"} <= set(names(made.folder))


@pytest.mark.parametrize("files", ["", "of LLaMA-Factory", "damaged"])
def test_what_cannot_be_gone_on_from_is_refused_and_nothing_is_touched(made: Run, files: str) -> None:
    start, words, hint = made.folder / "checkpoint-5", "no checkpoint `", "has checkpoint-2, checkpoint-4, checkpoint-6"
    if files == "of LLaMA-Factory":
        start = made.folder.parent / "saves" / "checkpoint-500"
        start.mkdir(parents=True)
        (start / "trainer_state.json").write_text(json.dumps({"global_step": 500}))
        save_file({}, start / "adapter_model.safetensors")
        words, hint = "is not a checkpoint of qlora-fast", "another program"
    elif files == "damaged":
        start = made.folder / "checkpoint-4"
        (start / "optimizer.safetensors").write_bytes(b"")
        words, hint = r"is damaged \(optimizer.safetensors has 0 bytes", "takes the newest whole one"
    before = {p: p.read_bytes() for p in made.folder.parent.rglob("*") if p.is_file()}
    with pytest.raises(ArtifactError, match=words) as caught:
        go_on(made, start)
    assert hint in str(caught.value.hint)
    assert {p: p.read_bytes() for p in made.folder.parent.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("wanted", ["true", "auto"])
def test_a_finished_run_without_checkpoints_is_not_trained_over(made: Run, wanted: str) -> None:
    for name in names(made.folder):
        shutil.rmtree(made.folder / name)
    before = {p: p.read_bytes() for p in made.folder.parent.rglob("*") if p.is_file()}
    with pytest.raises(ArtifactError, match="has finished, and has no checkpoint") as caught:
        go_on(made, Path(wanted), "overwrite_output_dir=false", "learning_rate=0.1")
    assert f"adapter_name_or_path={made.folder}" in str(caught.value.hint)
    assert {p: p.read_bytes() for p in made.folder.parent.rglob("*") if p.is_file()} == before


def test_a_checkpoint_of_another_folder_is_refused_until_its_run_is_copied_there(made: Run) -> None:
    other = made.folder.with_name("other")
    words = (f"output_dir={other}", "overwrite_output_dir=false")
    with pytest.raises(ArtifactError, match="is not in output_dir") as caught:
        go_on(made, made.folder / "checkpoint-4", *words)
    assert f"output_dir={made.folder}" in str(caught.value.hint)
    assert not other.exists()
    shutil.copytree(made.folder, other)
    go_on(made, other / "checkpoint-4", *words)
    assert (other / "adapter_model.safetensors").read_bytes() == (
        made.folder / "adapter_model.safetensors"
    ).read_bytes()


def test_a_checkpoint_of_other_settings_is_refused_and_nothing_moves(made: Run) -> None:
    before = names(made.folder)
    with pytest.raises(ArtifactError, match="is of another run: seed"):
        go_on(made, made.folder / "checkpoint-4", "seed=7")
    assert names(made.folder) == before


def test_an_exact_run_goes_on_with_shorter_rows_as_the_hint_of_memory_advises(run: Make) -> None:
    made = run(packing="exact", save_strategy="steps", save_steps=2, logging_steps=1)
    kept = [entry["loss"] for entry in made.log if "loss" in entry]
    go_on(made, made.folder / "checkpoint-4", "max_tokens_per_row=128")
    assert [entry["loss"] for entry in made.log if "loss" in entry] == pytest.approx(kept, rel=1e-5)


def test_a_dense_run_does_not_for_its_updates_are_counted_in_rows(run: Make) -> None:
    made = run(packing="dense", save_strategy="steps", save_steps=2, max_steps=4)
    with pytest.raises(ArtifactError, match="is of another run: max_tokens_per_row"):
        go_on(made, made.folder / "checkpoint-2", "max_tokens_per_row=128")


def test_auto_takes_no_decision_of_another_run(made: Run) -> None:
    config = made.folder.parent / "tiny.yaml"
    of_this = resume.kept(load(config, ["resume_from_checkpoint=auto"]).config, Ranks())
    assert of_this.products is not None
    other = load(config, ["resume_from_checkpoint=auto", "learning_rate=1e-3"]).config
    assert resume.kept(other, Ranks()) == NOTHING_KEPT
    named = load(config, [f"resume_from_checkpoint={made.folder}/checkpoint-4", "learning_rate=1e-3"]).config
    assert resume.kept(named, Ranks()) == of_this, "the difference is refused later, by name"


def test_auto_starts_goes_on_and_ends_as_one_command(made: Run, caplog: pytest.LogCaptureFixture) -> None:
    """What a launcher or a scheduler starts again unchanged, also with overwrite_output_dir."""
    config, before = made.folder.parent / "tiny.yaml", (made.folder / "adapter_model.safetensors").read_bytes()
    words = ["resume_from_checkpoint=auto", "overwrite_output_dir=true"]
    shutil.rmtree(made.folder)
    for there, expected in (
        ("", "starting from the beginning"),
        ("checkpoint-4", "update 4 of 8"),
        ("8", "update 8 of 8"),
    ):
        if there == "checkpoint-4":
            for name in ("checkpoint-6", "checkpoint-8"):
                shutil.rmtree(made.folder / name)
        with caplog.at_level("INFO", logger="qlora_fast"):
            train(load(config, words).config)
        assert expected in caplog.text
        caplog.clear()
        assert (made.folder / "adapter_model.safetensors").read_bytes() == before
        assert not list(made.folder.parent.glob("run.old-*")), "its own run is not moved aside"


def test_auto_moves_another_run_aside_only_where_it_may(made: Run) -> None:
    config = made.folder.parent / "tiny.yaml"
    with pytest.raises(ArtifactError, match="is of another run: learning_rate"):
        train(load(config, ["resume_from_checkpoint=auto", "learning_rate=1e-3"]).config)
    words = ["resume_from_checkpoint=auto", "overwrite_output_dir=true", "learning_rate=1e-3"]
    train(load(config, words).config)
    assert len(list(made.folder.parent.glob("run.old-*"))) == 1
    assert names(made.folder) == ["checkpoint-2", "checkpoint-4", "checkpoint-6", "checkpoint-8"]
