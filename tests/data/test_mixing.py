"""What is drawn from several sources: shares, limits, evaluation sets, duplicates."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_run import cli
from qlora_fast.config import Config, load
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.prepare import prepare_config
from qlora_fast.data.selection import Selection, eval_rows, select
from qlora_fast.data.selection import load as load_data
from qlora_fast.data.tokenizer import tokenizer_of
from qlora_fast.errors import ConfigError, DataError
from source_files import ROWS, listed, write


def chosen(settings: dict[str, Any], *names: str, **more: Any) -> tuple[PreparedDataset, Selection]:
    config = Config(**settings, dataset=list(names), **more)
    made = prepare_config(config)
    evals = [prepare_config(config, config.eval_dataset)] if config.eval_dataset else []
    return made.open(), select(made, config, evals)


def test_mix_strategies_say_what_they_take(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path / "a.json", ROWS[:30])
    write(tmp_path / "b.json", ROWS[30:])
    for strategy, expected in (("concat", (30, 10)), ("interleave_under", (10, 10)), ("interleave_over", (30, 30))):
        data, picked = chosen(settings, "a.json", "b.json", mix_strategy=strategy)
        files = Counter(Path(data.origin(i).file).name for i in picked.train_ids)
        assert (files["a.json"], files["b.json"]) == expected
        a, b = picked.shares
        assert (a.taken, a.repeated, a.unused) == (expected[0], 0, 30 - expected[0])
        assert (b.taken, b.repeated, b.unused) == (expected[1], expected[1] - 10, 0)
        again = chosen(settings, "a.json", "b.json", mix_strategy=strategy)[1]
        assert np.array_equal(again.train_ids, picked.train_ids)
    _, weighted = chosen(
        settings, "a.json", "b.json", mix_strategy="interleave_over", interleave_probs=[0.9, 0.1], val_size=8
    )
    a, b = weighted.shares
    assert a.held_out + b.held_out == len(weighted.eval_ids) == 8
    assert a.taken > 3 * b.taken
    assert b.unused == 0
    assert not set(weighted.train_ids) & set(weighted.eval_ids)
    assert str(a) == f"{a.taken:,} of 30 rows, {a.repeated:,} of them repeated, {a.held_out} held out"


def test_num_samples_draws_and_max_samples_cuts(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path / "a.json", ROWS)
    listed(tmp_path, few={"file_name": "a.json", "num_samples": 7}, many={"file_name": "a.json", "num_samples": 100})
    _, first = chosen(settings, "a.json", max_samples=5)
    assert first.train_ids.tolist() == [0, 1, 2, 3, 4]
    _, few = chosen(settings, "few")
    assert len(few.train_ids) == 7
    assert few.train_ids.tolist() != list(range(7))
    assert len(chosen(settings, "few", max_samples=5)[1].train_ids) == 5
    _, many = chosen(settings, "many")
    assert len(many.train_ids) == 100
    assert set(Counter(many.train_ids.tolist()).values()) == {2, 3}
    assert many.shares[0].repeated == 60
    config = Config(**settings, dataset=["a.json"], eval_dataset=["few"])
    assert len(eval_rows(prepare_config(config, ["few"]), config)) == 7


def test_max_samples_is_of_each_eval_dataset(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path / "a.json", ROWS[:30])
    write(tmp_path / "b.json", ROWS[30:])
    config = Config(**settings, dataset=["a.json"], eval_dataset=["a.json", "b.json"], max_samples=4)
    data = load_data(config, tokenizer_of(config))
    assert data.evals is not None
    assert Counter(Path(data.evals.origin(i).file).name for i in data.eval_ids) == {"a.json": 4, "b.json": 4}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["interleave_probs=0.5,0.5"], "needs mix_strategy"),
        (["mix_strategy=interleave_under", "interleave_probs=1"], "has 1 shares for 2 datasets"),
        (["mix_strategy=interleave_under", "interleave_probs=1,-1"], "must all be greater than 0"),
    ],
)
def test_mixing_settings_that_contradict(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(None, ["dataset=a,b", *words])


# --- duplicates


def test_a_question_is_never_on_both_sides(tmp_path: Path, settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    rows = [{"instruction": f"q{rng.integers(120)}", "output": f"a{rng.integers(3)}"} for _ in range(600)]
    write(tmp_path / "a.json", rows)
    leaky = chosen(settings, "a.json", val_size=0.2)
    assert leaky[0].questions is None
    data, picked = chosen(settings, "a.json", val_size=0.2, deduplicate="exact")
    distinct = {(r["instruction"], r["output"]) for r in rows}
    assert len(data) == len(distinct)
    assert data.manifest["rows_dropped"] == {"duplicate": 600 - len(distinct)}
    first = data.manifest["dropped_examples"][0]
    source = rows[first["row"]]
    assert rows.index(source) == first["first"]["row"] < first["row"]

    def asked(pair: tuple[PreparedDataset, Selection]) -> tuple[set[str], set[str]]:
        ids = pair[1].train_ids, pair[1].eval_ids
        train, held = ({rows[pair[0].origin(i).row]["instruction"] for i in side} for side in ids)
        return train, held

    assert set.intersection(*asked(leaky)), "the split by rows leaks here, or the test shows nothing"
    train, held = asked((data, picked))
    assert not train & held
    assert len(train | held) == len({r["instruction"] for r in rows})
    assert abs(len(picked.eval_ids) - 0.2 * len(data)) <= 3


def test_a_question_of_the_eval_dataset_is_not_trained_on(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path / "a.json", ROWS)
    write(tmp_path / "b.json", [{"instruction": "question 3", "output": "another answer"}, ROWS[5], ROWS[5]])
    _data, picked = chosen(settings, "a.json", eval_dataset=["b.json"], deduplicate="exact")
    assert picked.shares[0].left_out == 2
    assert {3, 5} == set(range(40)) - set(picked.train_ids.tolist())
    assert len(chosen(settings, "a.json", eval_dataset=["b.json"])[1].train_ids) == 40
    with pytest.raises(DataError, match=r"nothing of `a.json` is left"):
        chosen(settings, "a.json", eval_dataset=["a.json"], deduplicate="exact")


def test_an_eval_dataset_that_is_trained_on_is_named(tmp_path: Path, settings: dict[str, Any]) -> None:
    """By its bytes: a copy under another name is the same data."""
    write(tmp_path / "a.json", ROWS)
    write(tmp_path / "copy.json", ROWS)
    write(tmp_path / "other.json", ROWS[:30])
    lines = [
        *(f"{name}: {value}" for name, value in settings.items()),
        "dataset: a.json",
        "val_size: 0",
        "eval_strategy: epoch",
    ]
    (tmp_path / "x.yaml").write_text("\n".join(lines))

    def said(*more: str) -> list[str]:
        ran = cli("plan", "x.yaml", *more, "--json", cwd=tmp_path)
        assert ran.status == 0, ran.err
        return [line for line in json.loads(ran.out)["advice"] if "trained on as well" in line]

    for name in ("a.json", "copy.json"):
        (line,) = said(f"eval_dataset={name}")
        assert f"{tmp_path / name})" in line
    assert not said("eval_dataset=other.json")
    assert not said("eval_dataset=other.json", "deduplicate=exact"), "equal questions are left out of the training"


# --- as a user meets it


def test_prep_and_plan_show_what_was_taken(tmp_path: Path, model_dir: Path) -> None:
    write(tmp_path / "a.json", [*ROWS[:30], ROWS[0]])
    write(tmp_path / "b.json", ROWS[30:])
    words = [f"model_name_or_path={model_dir}", "deduplicate=exact"]
    ran = cli("prep", "a.json", "b.json", *words, cwd=tmp_path)
    assert ran.status == 0, ran
    assert "41 read = 40 kept + 1 dropped" in ran.out
    assert "1 duplicate" in ran.out
    (tmp_path / "x.yaml").write_text("dataset: a.json,b.json\nmix_strategy: interleave_under\nval_size: 4\n")
    ran = cli("plan", "x.yaml", *words, cwd=tmp_path)
    assert ran.status == 0, ran
    assert "a.json: " in ran.out
    assert "unused" in ran.out
    assert "held out" in ran.out
