"""`max_tokens_per_row: auto`: the machine decides how long rows are, never which samples meet in an optimizer step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from parameter_run import Make, maker
from qlora_fast.config import Config, dump, load
from qlora_fast.data.plan import PlanOptions, epoch_plan, row_tokens, update_samples
from qlora_fast.errors import ConfigError, OutOfMemoryError
from qlora_fast.model import host
from qlora_fast.train import memory_usage, plan_report, row_budget, row_fit, setup
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.row_budget import RowBudget, chosen
from qlora_fast.train.run import train


@pytest.fixture
def run(model_dir: Path, tmp_path: Path) -> Make:
    return maker(model_dir, tmp_path)


@pytest.mark.parametrize(
    ("whole", "longest", "fits", "gpu", "tokens", "why"),
    [
        (9000, 800, None, True, 9000, "each optimizer step is one row"),
        (9000, 800, 9000, True, 9000, "each optimizer step is one row"),
        (9000, 800, 4096, True, 4096, "the longest row that fits into memory"),
        (9000, 800, 512, True, 800, "the longest row that fits into memory"),
        (900, 800, None, False, 900, "each optimizer step is one row"),
        (9000, 800, None, False, 1024, "longer rows are no faster on a CPU"),
        (9000, 2000, None, False, 2000, "the longest sample"),
        (9000, 100, 512, False, 512, "the longest row that fits into memory"),
    ],
)
def test_what_decides(whole: int, longest: int, fits: int | None, gpu: bool, tokens: int, why: str) -> None:
    assert chosen(whole, longest, fits, gpu=gpu) == RowBudget(tokens, why)


@pytest.mark.parametrize("free", [0.0, 1e3, 5e4, 1e5, 1e6])
def test_the_largest_is_within_the_share_of_memory_and_the_next_step_is_not(free: float) -> None:
    def need(tokens: int) -> float:
        return 100.0 + 10.0 * tokens

    found = row_budget.largest(6000, need, free)
    assert 0 <= found <= 6000
    assert found == 0 or need(found) <= row_budget.FIT * free
    assert found == 6000 or need(found + 256) > row_budget.FIT * free


@pytest.mark.parametrize("packing", ["dense", "bucketed", "none"])
def test_where_an_update_would_follow_the_machine_it_is_the_cutoff(packing: str) -> None:
    config = Config(packing=packing, cutoff_len=777)
    assert not row_budget.is_open(config)
    assert row_budget.named(config).tokens == 777


@pytest.mark.parametrize("world", [1, 3])
def test_the_samples_of_an_update_are_the_same_in_rows_of_any_length(world: int) -> None:
    lengths = np.random.default_rng(0).integers(5, 300, 200).astype(np.uint32)
    plans = [
        epoch_plan(lengths, lengths, PlanOptions("exact", 24, 4, budget, world, 0)) for budget in (300, 1024, 24 * 300)
    ]
    assert len({len(plan.supervised) for plan in plans}) == 1
    for k in range(len(plans[0].supervised)):
        assert len({tuple(sorted(update_samples(plan, k).tolist())) for plan in plans}) == 1
    whole = plans[-1]
    assert np.diff(whole.update_offsets).tolist() == [world] * len(whole.supervised), "a row on each device"
    most = int(row_tokens(whole, lengths, packed=True).max())
    again = epoch_plan(lengths, lengths, PlanOptions("exact", 24, 4, most, world, 0))
    assert np.diff(again.update_offsets).tolist() == [world] * len(whole.supervised), (
        "the number that is stored does it too"
    )


class TwoRanks(Ranks):
    """Of which the other has said a number."""

    def __init__(self, other: int) -> None:
        super().__init__(world=2)
        self.other = other

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        return [tensor, torch.tensor([self.other])]


def test_ranks_agree_on_the_least_and_on_whether_any_says_yes() -> None:
    assert -TwoRanks(-300).most(-500) == 300
    assert -TwoRanks(-900).most(-500) == 500
    assert TwoRanks(1).any(False)
    assert TwoRanks(0).any(True)
    assert not TwoRanks(0).any(False)


def decided(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "run.json").read_text())["max_tokens_per_row"]
    return found


def stored(checkpoint: Path) -> object:
    return json.loads((checkpoint / "progress.json").read_text())["identity"]["max_tokens_per_row"]


def test_a_resumed_run_keeps_its_number_and_shortens_it_only_where_memory_ends(
    run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_budget, "CPU_ROW", 200)
    made = run(packing="exact", save_strategy="steps", save_steps=2, logging_steps=1)
    kept = [entry["loss"] for entry in made.log if "loss" in entry]
    first = decided(made.folder)["tokens"]
    assert stored(made.folder / "checkpoint-2") == first
    config = made.folder.parent / "tiny.yaml"

    def resume(update: int) -> None:
        train(load(config, [f"resume_from_checkpoint={made.folder / f'checkpoint-{update}'}"]).config)

    # Another machine, which would decide otherwise.
    monkeypatch.setattr(row_budget, "CPU_ROW", 10**6)
    resume(6)
    assert decided(made.folder) == {"tokens": first, "why": "as in the checkpoint"}
    assert [entry["loss"] for entry in made.log if "loss" in entry] == kept, "bit for bit"
    # And one with less memory: room for a few tokens.
    need = row_fit.need_of
    monkeypatch.setattr(
        row_fit, "need_of", lambda *a, **k: lambda tokens: need(*a, **k)(tokens) if tokens < 150 else 1e30
    )
    resume(4)
    assert decided(made.folder)["tokens"] < first
    assert stored(made.folder / "checkpoint-8") == decided(made.folder)["tokens"]
    assert [entry["loss"] for entry in made.log if "loss" in entry] == pytest.approx(kept, rel=1e-5)


def test_rows_get_shorter_until_one_fits(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def probe(config: object, forward: object, adapter: object, dataset: object, row: setup.Row, ranks: object) -> bool:
        tried.append(row.input_ids.size)
        if row.input_ids.size > 120:
            raise OutOfMemoryError("out of memory")
        return False

    monkeypatch.setattr(setup, "probe", probe)
    made = run(packing="exact", max_steps=2)
    assert len(tried) > 1
    assert tried == sorted(tried, reverse=True)
    assert decided(made.folder)["tokens"] <= 120
    assert "did not fit" in str(decided(made.folder)["why"])


def test_the_hint_comes_through_where_even_the_longest_sample_does_not_fit(
    run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe(*_: object) -> bool:
        raise OutOfMemoryError("out of memory", hint="a smaller model")

    monkeypatch.setattr(setup, "probe", probe)
    with pytest.raises(OutOfMemoryError) as caught:
        run(packing="exact", max_steps=2)
    assert caught.value.hint == "a smaller model"


def test_activations_are_recomputed_before_a_gpu_runs_short_rows(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device with little memory the number is larger with recomputation, and only if that is left open."""
    tokens = {}
    monkeypatch.setattr(row_budget, "floor", lambda whole, longest, gpu: whole)
    for setting in ("auto", "false"):
        free = 1 << 21
        monkeypatch.setattr(memory_usage, "available", lambda device, free=free: free)
        monkeypatch.setattr(row_fit, "need_of", _halved_by_recomputation)
        made = run(packing="exact", max_steps=1, gradient_checkpointing=setting)
        tokens[setting] = decided(made.folder)["tokens"]
    assert tokens["auto"] > tokens["false"]  # type: ignore[operator]


def _halved_by_recomputation(forward: object, dataset: object, *, packed: bool):  # type: ignore[no-untyped-def]
    recomputed = forward.model.get_base_model().is_gradient_checkpointing  # type: ignore[attr-defined]
    return lambda tokens: tokens * (1000.0 if recomputed else 20_000.0)


def test_plan_shows_the_number_and_why(model_dir: Path, run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run(packing="exact", max_steps=1)
    config = load(made.folder.parent / "tiny.yaml").config
    on_cpu = plan_report.from_data(config)["max_tokens_per_row"]
    assert on_cpu == decided(made.folder)
    monkeypatch.setattr(host, "gpu_free", lambda: 80 << 30)
    on_gpu = plan_report.from_data(config)
    assert on_gpu["max_tokens_per_row"]["why"] == "each optimizer step is one row"
    assert {way["packing"]: way["rows"] for way in on_gpu["padding"]}["exact"] == on_gpu["updates_per_epoch"]
    monkeypatch.setattr(host, "gpu_free", lambda: 600_000_000)
    assert plan_report.from_data(config)["max_tokens_per_row"]["tokens"] <= on_gpu["max_tokens_per_row"]["tokens"]


@pytest.mark.parametrize("text", ["", "null", "auto"])
def test_nothing_given_is_auto_and_comes_back_from_what_a_run_stores(text: str, tmp_path: Path) -> None:
    config = load(None, [f"max_tokens_per_row={text}"]).config
    assert config.max_tokens_per_row == "auto"
    (tmp_path / "c.yaml").write_text(dump(config))
    assert load(tmp_path / "c.yaml").config == config
    with pytest.raises(ConfigError, match="max_tokens_per_row"):
        Config(max_tokens_per_row=None)
