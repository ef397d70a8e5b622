"""``evaluate``: a run's own figures again, other data, the base alone, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from cli_run import DATA, cli
from qlora_fast.cli import cli as cli_group
from qlora_fast.errors import ArtifactError, ConfigError, DataError
from qlora_fast.hub import resolve
from qlora_fast.runs.eval_samples import read_samples
from qlora_fast.runs.read import read_run
from qlora_fast.train import evaluate_run, joining
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.evaluate_run import score, subject_of
from tiny_folder import ALPACA, trained


@pytest.fixture(scope="module")
def run(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("evaluate"), model_dir)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"instruction": f"Say {i}.", "output": f"It is {i}."} for i in range(12)]))
    return path


def test_it_gives_the_figures_of_the_training(run: Path) -> None:
    trained_results = json.loads((run / "all_results.json").read_text())
    before = read_samples(run / "eval_samples.jsonl")
    (run / "eval_samples.jsonl").unlink()
    done = score(subject_of(str(run), base_only=False))
    for name in ("eval_loss", "perplexity", "eval_loss_hf", "eval_accuracy", "eval_tokens"):
        assert done.results[name] == pytest.approx(trained_results[name], rel=1e-6), name
    after = read_samples(run / "eval_samples.jsonl")
    assert after.ids == before.ids
    assert after.loss == pytest.approx(before.loss, rel=1e-5)
    assert json.loads((run / "all_results.json").read_text()) == trained_results
    assert done.results["trained_on"] == 0


def test_the_loss_is_that_of_transformers(run: Path, rows: Path, model_dir: Path) -> None:
    """The reference: PEFT and transformers' own loss, one sample at a time."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from qlora_fast.data.prepare import prepare_config
    from qlora_fast.data.tokenizer import tokenizer_of

    subject = subject_of(str(run), base_only=False)
    done = score(subject, data=[str(rows)])
    dataset = prepare_config(subject.config, [str(rows)], tokenizer=tokenizer_of(subject.config)).open()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_dir), str(run)).eval()
    total, tokens = 0.0, 0
    with torch.no_grad():
        for sample in dataset:
            ids = torch.from_numpy(sample["input_ids"].astype("int64"))[None]
            labels = torch.from_numpy(sample["labels"].astype("int64"))[None]
            n = int((labels != -100).sum())
            total, tokens = total + n * float(model(input_ids=ids, labels=labels).loss), tokens + n
    assert done.results["eval_loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert done.results["eval_tokens"] == tokens


def test_other_data_has_a_folder_and_a_name(run: Path, rows: Path) -> None:
    score(subject_of(str(run), base_only=False), data=[str(rows)], name="digits")
    record = read_run(run, on="digits")
    assert record.samples is not None
    assert len(record.samples) == 12
    line = json.loads((run / "eval" / "digits" / "eval_samples.jsonl").read_text().splitlines()[3])
    assert (line["row"], Path(line["file"]).name) == (3, "rows.json")
    assert line["accuracy"] <= 1
    # A folder inside the run is another adapter of it.
    best = score(subject_of(str(run / "best"), base_only=False), data=[str(rows)])
    assert best.folder == run / "eval" / "rows-best"


@pytest.mark.parametrize("spelled", ["dataset={}", "dataset=[{}]", "dataset='{}'"])
def test_data_on_the_command_line_is_read_as_everywhere(spelled: str, run: Path, rows: Path) -> None:
    ran = cli("evaluate", run, spelled.format(rows), "--name", "spelled", "--json")
    assert ran.status == 0, ran.err
    assert json.loads((run / "eval" / "spelled" / "eval_results.json").read_text())["eval_samples"] == 12


def test_rows_that_were_trained_on_are_noticed(run: Path) -> None:
    done = score(subject_of(str(run), base_only=False), data=[str(ALPACA)], name="all")
    assert done.results["trained_on"] == 14
    assert done.results["eval_samples"] == 24


def test_the_base_alone_and_what_the_adapter_gave(run: Path) -> None:
    ran = cli("evaluate", run, "--base", "--json")
    assert ran.status == 0, ran.err
    own = json.loads((run / "all_results.json").read_text())["eval_loss"]
    difference = ran.json["adapter_minus_base"]
    assert difference["mean"] == pytest.approx(own - ran.json["eval_loss"], abs=1e-5)
    assert (run / "eval" / "held-out-base" / "eval_samples.jsonl").is_file()


def test_a_base_model_by_name(model_dir: Path, rows: Path, tmp_path: Path) -> None:
    ran = cli("evaluate", model_dir, f"dataset={rows}", cwd=tmp_path)
    assert ran.status == 0, ran.err
    assert "12 samples" in ran.out
    assert "perplexity" in ran.out
    assert not list(model_dir.glob("eval*")), "nothing is written into a folder that is not a run"


def test_changed_data_is_refused(model_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "d.json"
    content = json.loads(ALPACA.read_text())
    data.write_text(json.dumps(content))
    run = trained(tmp_path / "r", model_dir, dataset=data, num_train_epochs=1)
    data.write_text(json.dumps(content[::-1]))
    with pytest.raises(ArtifactError, match="has changed since it was trained"):
        score(subject_of(str(run), base_only=False))


def test_what_cannot_be_evaluated_is_said(run: Path, model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no held-out rows of its own"):
        score(subject_of(str(model_dir), base_only=False))
    with pytest.raises(ArtifactError, match="is not a run, an adapter or a model"):
        subject_of(str(tmp_path), base_only=False)
    with pytest.raises(DataError, match="no data file"):
        score(subject_of(str(run), base_only=False), data=[str(DATA / "nothing.json")])


def test_of_several_ranks_the_first_converts_and_hashes_the_base(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it happens in turn: what the others need is then found."""

    class Turns(Ranks):
        inside = False

        @contextmanager
        def in_turn(self) -> Iterator[None]:
            self.inside = True
            yield
            self.inside = False

    ranks, seen = Turns(), []

    def note(real: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **more: Any) -> Any:
            seen.append(ranks.inside)
            return real(*args, **more)

        return noted

    monkeypatch.setattr(joining, "joined", lambda: nullcontext(ranks))
    monkeypatch.setattr(evaluate_run, "subject_of", note(evaluate_run.subject_of))
    monkeypatch.setattr(resolve, "model_path", note(resolve.model_path))
    assert CliRunner().invoke(cli_group, ["evaluate", str(run)], catch_exceptions=False).exit_code == 0
    assert seen == [True, True]
    assert not ranks.inside
