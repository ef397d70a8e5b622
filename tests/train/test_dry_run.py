"""What a dry run says of time and memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cli_run import DATA, ROOT, cli
from qlora_fast.config import load
from qlora_fast.train.dry_run import rehearse
from qlora_fast.train.duration import Timed, epoch_seconds, fit, spell


def test_a_row_costs_something_fixed_and_something_a_token() -> None:
    cost = fit([Timed(n, 0.02 + 0.001 * n) for n in (10, 50, 200, 400)])
    assert (cost.fixed, cost.per_token) == pytest.approx((0.02, 0.001))
    assert cost.spread == 0.1, "never narrower than ±10 %"
    assert cost.rows(np.array([0, 100])).tolist() == pytest.approx([0.0, 0.12])


@pytest.mark.parametrize(
    ("timed", "fixed", "per_token"),
    [
        ([Timed(100, 0.5)], 0.0, 0.005),
        ([Timed(100, 0.5), Timed(100, 0.7)], 0.0, 0.006),
        ([Timed(10, 0.5), Timed(100, 0.5)], 0.5, 0.0),
        # Growing faster than the tokens: a negative start would make short rows free.
        ([Timed(10, 0.01), Timed(100, 0.5)], 0.0, (0.1 + 50) / (100 + 10_000)),
    ],
)
def test_neither_part_is_negative(timed: list[Timed], fixed: float, per_token: float) -> None:
    cost = fit(timed)
    assert (cost.fixed, cost.per_token) == pytest.approx((fixed, per_token), abs=1e-9)


def test_rows_that_do_not_fit_the_line_widen_the_range() -> None:
    noisy = fit([Timed(n, 0.001 * n * wrong) for n, wrong in ((10, 1.4), (100, 0.6), (200, 1.4), (400, 0.8))])
    assert noisy.spread > 0.2


def test_an_update_takes_as_long_as_its_slowest_device() -> None:
    cost = fit([Timed(1, 1.0), Timed(10, 10.0)])
    tokens, updates = np.array([4, 3, 2, 1, 5, 0]), np.array([0, 4, 6])
    assert epoch_seconds(cost, tokens, updates, 1) == pytest.approx(15)
    # Update 1: 4 + 2 against 3 + 1; update 2: 5 against nothing.
    assert epoch_seconds(cost, tokens, updates, 2) == pytest.approx(6 + 5)


@pytest.mark.parametrize(("seconds", "text"), [(42.4, "42 s"), (600, "10 min"), (7200, "2.0 h")])
def test_spelled(seconds: float, text: str) -> None:
    assert spell(seconds) == text


@pytest.fixture
def config(model_dir: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"model_name_or_path: {model_dir}\ndataset: {DATA / 'demo' / 'alpaca_en.json'}\ncutoff_len: 256\nval_size: 0.2\n"
        f"lora_rank: 4\nlearning_rate: 5e-5\nwarmup_ratio: 0.1\nnum_train_epochs: 40\nper_device_train_batch_size: 2\n"
        f"gradient_accumulation_steps: 2\neval_strategy: steps\neval_steps: 0.25\noutput_dir: {tmp_path / 'run'}\n"
        f"prepared_dir: {tmp_path / 'prepared'}\n"
    )
    return path


def test_a_dry_run_measures_what_plan_cannot_know(config: Path, tmp_path: Path) -> None:
    report = rehearse(load(config).config)
    planned = cli("plan", config, "--json").json
    assert not (tmp_path / "run").exists(), "a dry run is not a run"
    for key in ("updates", "updates_per_epoch", "warmup_updates"):
        assert report[key] == planned[key]
    assert report["tokens_per_update"] == planned["tokens_per_update"]["mean"]
    assert report["lr"]["10"] == planned["lr"]["10"]
    assert report["longest_row"] >= planned["memory"]["longest_row"]
    assert report["evaluations"] == 4
    tokens = [row["tokens"] for row in report["rows_timed"]]
    assert tokens == sorted(tokens)
    assert all(row["seconds"] > 0 for row in report["rows_timed"])
    low, high = report["seconds"]
    assert 0 < low < high
    memory = report["memory"]
    assert memory["weights"] > 0 < memory["activations"]
    assert memory["peak"] > memory["weights"] + memory["activations"]
    assert memory["foretold"] > memory["weights"]


@pytest.mark.parametrize("packing", ["exact", "none"])
def test_more_devices_are_planned_for_on_one(config: Path, packing: str) -> None:
    one, four = (rehearse(load(config, [f"world_size={n}", f"packing={packing}"]).config) for n in (1, 4))
    assert four["updates"] < one["updates"]
    assert four["tokens_per_update"] > 2 * one["tokens_per_update"]


def test_the_command_shows_time_and_memory(config: Path, tmp_path: Path) -> None:
    ran = cli("train", config, "--dry-run", "world_size=4")
    assert ran.status == 0, ran.err
    assert "on 4 devices" in ran.out
    assert "tok/s, float32 on cpu" in ran.out
    assert "GB: weights" in ran.out
    assert "nothing was written" in ran.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_forecast_is_near_what_a_run_takes(tmp_path: Path) -> None:
    """The embedded model; the machine is shared, so near means within a factor of two of the range."""
    words = [ROOT / "configs/base.yaml", "num_train_epochs=1", f"output_dir={tmp_path / 'run'}", "eval_strategy=no"]
    words += [f"prepared_dir={tmp_path / 'prepared'}", "plot_loss=false"]
    low, high = cli("train", *words, "--dry-run", "--json").json["seconds"]
    took = cli("train", *words, "--json").json["train_runtime"]
    assert low / 2 < took < high * 2
