"""Comparing runs: the interval covers what it claims, noise is no finding, other data is never compared silently."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cli_run import cli
from qlora_fast.errors import ArtifactError
from qlora_fast.plots import Curve, plot_overlay, spread
from qlora_fast.runs import statistics, table
from qlora_fast.runs.eval_samples import Samples
from qlora_fast.runs.layout import EVAL_SAMPLES as FILE
from qlora_fast.runs.read import read_run, read_runs
from qlora_fast.runs.statistics import Difference, Incomparable, compare, joint_confidence, student_quantile
from tiny_folder import written


def samples(loss: np.ndarray, tokens: np.ndarray, ids: list[str] | None = None) -> Samples:
    names = ids or [f"s{i}" for i in range(len(loss))]
    return Samples(names, loss.astype(float), tokens.astype(np.int64), np.zeros(len(loss)))


@pytest.mark.parametrize(
    ("p", "degrees", "table"),
    [(0.975, 7, 2.3646), (0.975, 10, 2.2281), (0.995, 7, 3.4995), (0.995, 30, 2.7500), (0.975, 100, 1.9840)],
)
def test_the_quantiles_are_those_of_the_tables(p: float, degrees: int, table: float) -> None:
    assert student_quantile(p, degrees) == pytest.approx(table, abs=1e-3)


def test_the_difference_is_that_of_the_eval_losses() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 200, 40)
    a, b = rng.gamma(2, 1, 40) * tokens, rng.gamma(2, 1, 40) * tokens
    found = compare(samples(a, tokens), samples(b, tokens))
    assert isinstance(found, Difference)
    assert found.mean == pytest.approx(a.sum() / tokens.sum() - b.sum() / tokens.sum())
    assert (found.low + found.high) / 2 == pytest.approx(found.mean)
    assert (found.samples, found.tokens) == (40, tokens.sum())


def test_the_order_of_the_samples_does_not_matter_and_doubles_pair_with_doubles() -> None:
    rng = np.random.default_rng(1)
    tokens, loss = rng.integers(1, 50, 20), rng.gamma(2, 5, 20)
    names = [f"s{i // 2}" for i in range(20)]
    order = rng.permutation(20)
    run = samples(loss, tokens, names)
    moved = samples(loss[order], tokens[order], [names[i] for i in order])
    found = compare(moved, run)
    assert isinstance(found, Difference)
    assert found.mean == pytest.approx(0, abs=1e-12)
    assert found.samples == 20


@pytest.mark.parametrize(("n", "skewed", "at_least"), [(12, False, 0.92), (60, False, 0.93), (60, True, 0.89)])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int, skewed: bool, at_least: float) -> None:
    """Samples of a population whose true ratio is known; long and short answers, the long ones another matter."""
    rng = np.random.default_rng(2)

    def population(size: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.ceil(rng.lognormal(4, 0.6, size))
        scatter = rng.exponential(1, size) - 1 if skewed else rng.normal(0, 1, size)
        return (0.02 + 0.05 * scatter + 0.0002 * (tokens - 60)) * tokens, tokens

    d, t = population(200_000)
    true, hits, naive, draws = d.sum() / t.sum(), 0, 0, 1000
    for _ in range(draws):
        d, t = population(n)
        found = compare(samples(100 + d, t), samples(np.full(n, 100.0), t))
        if isinstance(found, Incomparable):
            continue
        hits += found.low <= true <= found.high
        # The guard: taking every token for an independent draw covers far less.
        error = np.sqrt(np.average((d / t - found.mean) ** 2, weights=t) / t.sum())
        naive += abs(found.mean - true) <= 1.96 * error
    assert at_least <= hits / draws <= 0.975
    assert naive / draws < 0.6


def test_the_guides_figures_on_150_rows_are_no_finding(tmp_path: Path) -> None:
    """1.854 against 1.859 with the scatter that two adapters of one model have: ±0.06 a token from sample to sample."""
    rng = np.random.default_rng(3)
    tokens = rng.integers(60, 180, 150)
    base = rng.normal(1.859, 0.5, 150)
    change = rng.normal(0, 0.06, 150)
    change -= (change * tokens).sum() / tokens.sum() + 0.005
    base += 1.859 - (base * tokens).sum() / tokens.sum()
    first = written(tmp_path / "exp2", (base * tokens).tolist(), tokens=tokens.tolist(), lora_rank=8)
    second = written(tmp_path / "exp4", ((base + change) * tokens).tolist(), tokens=tokens.tolist(), lora_rank=32)
    made = table.report(read_runs([first, second]))
    line = made["runs"][1]
    assert (round(made["runs"][0]["eval_loss"], 3), round(line["eval_loss"], 3)) == (1.859, 1.854)
    assert line["difference"]["verdict"] == "no difference that this data can show"
    # Ten times the rows with the same scatter would show it.
    many = compare(
        samples(np.tile((base + change) * tokens, 10), np.tile(tokens, 10)),
        samples(np.tile(base * tokens, 10), np.tile(tokens, 10)),
    )
    assert isinstance(many, Difference)
    assert many.verdict == "better"


def test_a_clear_difference_is_called_by_its_name() -> None:
    tokens = np.full(30, 20)
    base = np.random.default_rng(4).gamma(2, 10, 30)
    for step, verdict in ((-2.0, "better"), (2.0, "worse")):
        found = compare(samples(base + step + np.linspace(-0.1, 0.1, 30), tokens), samples(base, tokens))
        assert isinstance(found, Difference)
        assert found.verdict == verdict


def test_other_data_is_never_compared() -> None:
    tokens, loss = np.full(30, 20), np.linspace(1, 9, 30)
    other = samples(loss, tokens, [f"x{i}" for i in range(28)] + ["s0", "s1"])
    found = compare(samples(loss, tokens), other)
    assert isinstance(found, Incomparable)
    assert "2 in common of 30 and 30" in found.reason
    few = compare(samples(loss[:5], tokens[:5]), samples(loss[:5] + 1, tokens[:5]))
    assert few == Incomparable("5 samples are too few for an interval (weighted by length they count as 5.0)")
    one_long = np.array([5000, *[10] * 29])
    assert isinstance(compare(samples(loss, one_long), samples(loss + 1, one_long)), Incomparable)


def test_more_runs_make_each_interval_wider(tmp_path: Path) -> None:
    assert joint_confidence(4) == pytest.approx(0.9875)
    rng = np.random.default_rng(5)
    loss = rng.gamma(2, 10, 20)
    folders = [written(tmp_path / f"r{i}", (loss + rng.normal(0, 1, 20)).tolist()) for i in range(4)]
    two, four = table.report(read_runs(folders[:2])), table.report(read_runs(folders))
    a, b = two["runs"][1]["difference"], four["runs"][1]["difference"]
    assert a["mean"] == b["mean"]
    assert b["high"] - b["low"] > 1.1 * (a["high"] - a["low"])


def test_notes_say_what_may_not_be_concluded(tmp_path: Path) -> None:
    loss = np.random.default_rng(6).gamma(2, 10, 20)
    paths = [
        written(tmp_path / "base", loss.tolist(), lora_dropout=0.05, learning_rate=5e-5),
        written(tmp_path / "exp3", (loss + 1).tolist(), lora_dropout=0.1, learning_rate=3e-5),
        written(tmp_path / "rank", (loss - 1).tolist(), lora_dropout=0.05, learning_rate=5e-5, lora_rank=16),
        written(tmp_path / "elsewhere", loss.tolist(), ids="t"),
        written(tmp_path / "blind", None),
    ]
    made = table.report(read_runs(paths))
    by_name = {line["name"]: line for line in made["runs"]}
    # Alpha follows the rank, so the scale is the same and only the rank has changed.
    assert by_name["rank"]["changed"] == ["lora_rank 8 → 16"]
    assert by_name["exp3"]["changed"] == ["lora_dropout 0.05 → 0.1", "learning_rate 5e-5 → 3e-5"]
    notes = "\n".join(made["notes"])
    assert "exp3 differs from base in more than one thing" in notes
    assert "elsewhere is not compared with base: evaluated on other samples: 0 in common of 20 and 20" in notes
    assert "blind has no per-sample evaluation; make one with `qlora-fast evaluate" in notes
    assert by_name["elsewhere"]["difference"] is None
    text = table.markdown(made)
    assert text.splitlines()[1] == "| " + " | ".join(["---"] * len(table.HEAD)) + " |"
    assert "| elsewhere | 8 |" in text
    assert "not compared" in text


def test_runs_of_equal_names_get_longer_ones(tmp_path: Path) -> None:
    paths = [written(tmp_path / "a" / "run", None), written(tmp_path / "b" / "run", None)]
    assert [run.name for run in read_runs(paths)] == ["a/run", "b/run"]
    with pytest.raises(ArtifactError, match="named twice"):
        read_runs([paths[0], paths[0]])
    with pytest.raises(ArtifactError, match="is not a run, an adapter or a model"):
        read_run(tmp_path)
    with pytest.raises(ArtifactError, match="has no evaluation `test`"):
        read_run(paths[0], on="test")


def test_an_unfinished_run_shows_what_it_has(tmp_path: Path) -> None:
    path = written(tmp_path / "r", [1.0] * 10)
    for name in ("all_results.json", "trainer_state.json"):
        (path / name).unlink()
    log = [{"step": 5, "loss": 2.0}, {"step": 7, "loss": 1.9}]
    (path / "trainer_log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in log) + '{"step": 8, "lo')
    made = table.report([read_run(path)])
    assert made["runs"][0]["updates"] == 7
    assert "r is not finished" in made["notes"]
    assert "r (not finished)" in table.markdown(made)
    (path / FILE).unlink()
    made = table.report(read_runs([written(tmp_path / "whole", [1.0] * 10), path]))
    assert any("r has no per-sample evaluation; it is written when the run has finished" in n for n in made["notes"])


def test_the_command_prints_draws_and_writes_json(tmp_path: Path) -> None:
    loss = np.random.default_rng(7).gamma(2, 10, 20)
    a, b = written(tmp_path / "a", loss.tolist()), written(tmp_path / "b", (loss - 2).tolist(), lora_rank=32)
    picture = tmp_path / "p" / "losses.png"
    ran = cli("compare", a, b, "--json", "--plot", picture)
    assert ran.status == 0, ran.err
    assert ran.json["runs"][1]["difference"]["verdict"] == "better"
    assert picture.read_bytes()[:4] == b"\x89PNG"
    turned = cli("compare", a, b, "--baseline", b)
    assert turned.status == 0, turned.err
    lines = turned.out.splitlines()
    assert lines[1].startswith("a ")
    assert "worse" in lines[1]
    assert "baseline" in lines[2]
    assert "another seed is another adapter" in turned.err
    assert cli("compare", tmp_path).status == 1


def test_labels_keep_their_distance_and_their_order() -> None:
    assert spread([1.0, 5.0], 1.0) == [1.0, 5.0]
    moved = spread([1.0, 1.1, 1.2, 9.0], 1.0)
    assert np.diff(moved).min() >= 1.0 - 1e-9
    assert np.mean(moved[:3]) == pytest.approx(1.1)
    assert moved[3] == 9.0


def test_the_picture_holds_every_run(tmp_path: Path) -> None:
    curves = [
        Curve.of("only training", [{"step": s, "loss": 2.0 - s / 50} for s in range(1, 20)]),
        Curve.of("both", [{"step": 5, "loss": 1.9}, {"step": 5, "eval_loss": 1.8}]),
        Curve.of("nothing yet", []),
    ]
    path = plot_overlay(curves, tmp_path / "o.png")
    assert path.stat().st_size > 10_000


def test_the_module_reads_no_clock_and_draws_nothing_at_random(tmp_path: Path) -> None:
    loss = np.random.default_rng(8).gamma(2, 10, 20)
    paths = [written(tmp_path / "a", loss.tolist()), written(tmp_path / "b", (loss + 0.1).tolist())]
    assert table.report(read_runs(paths)) == table.report(read_runs(paths))
    assert statistics.MIN_SAMPLES == 6


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "[" * 100_000, '{"log_history": [{}]}', '{"log_history": [{"step": "x"}]}']
)
def test_a_damaged_state_is_named(content: str, tmp_path: Path) -> None:
    run = written(tmp_path / "run", [1.0, 2.0])
    (run / "trainer_state.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"trainer_state\.json"):
        read_run(run)


@pytest.mark.parametrize("line", ["{}", '{"step": "x"}', '{"a": ' + "[" * 100_000 + "}"])
def test_a_damaged_log_is_named(line: str, tmp_path: Path) -> None:
    run = written(tmp_path / "run", None)
    (run / "trainer_state.json").unlink()
    (run / "trainer_log.jsonl").write_text('{"step": 1, "loss": 2.0}\n' + line + "\n")
    with pytest.raises(ArtifactError, match=r"trainer_log\.jsonl"):
        read_run(run)
