"""Two training processes never write into one folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from parameter_run import go_on, maker
from qlora_fast.errors import ArtifactError
from qlora_fast.train import output_lock
from qlora_fast.train.output_lock import OutputLock


@pytest.mark.parametrize("words", [("true", "overwrite_output_dir=false"), ("false", "overwrite_output_dir=true")])
def test_a_folder_that_is_written_to_is_neither_resumed_nor_moved_aside(
    model_dir: Path, tmp_path: Path, words: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_lock, "PATIENCE", 0.2)
    made = maker(model_dir, tmp_path)(save_strategy="steps", save_steps=4)
    before = {p: p.read_bytes() for p in made.folder.parent.rglob("*") if p.is_file()}
    with OutputLock() as lock:
        lock.take(made.folder)
        with pytest.raises(ArtifactError, match="another training process writes into") as caught:
            go_on(made, Path(words[0]), *words[1:])
        assert "output_dir=" in str(caught.value.hint)
    assert {p: p.read_bytes() for p in made.folder.parent.rglob("*") if p.is_file()} == before
    go_on(made, Path(words[0]), *words[1:])


def test_a_folder_stays_locked_under_another_name_and_its_successor_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_lock, "PATIENCE", 0.0)
    run = tmp_path / "run"
    with OutputLock() as first, OutputLock() as second:
        first.take(run)  # there is none yet
        run.mkdir()
        first.take(run)
        aside = run.rename(tmp_path / "aside")
        run.mkdir()
        with pytest.raises(ArtifactError, match="another training process"):
            second.take(aside)
        first.renew(run)
        second.take(aside)
        second.release()
        with pytest.raises(ArtifactError, match="another training process"):
            second.take(run)
