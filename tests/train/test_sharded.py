"""A base that is shared out over the ranks: the same adapter, a part of the bytes."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tiny
from cli_run import DATA
from prepared import random_dataset
from qlora_fast.data.dataset import PreparedDataset
from ranks_run import Stopped, launch, stop_at_7
from sharded_run import evaluations_of_few, shard_run

BOUND = 1e-6
SAME = {"loss", "grad_norm", "eval_loss", "eval_loss_hf", "eval_accuracy", "perplexity"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    # Updates of 8 samples: the last one of an epoch has a single sample, so all other ranks have no row.
    return random_dataset(tmp_path_factory.mktemp("sharded") / "p", 33, vocab=tiny.VOCAB, longest=40, seed=6)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, make in tiny.MODELS.items():
        tiny.save(make(num_hidden_layers=4), folder / name)
    return folder


def weights(folder: Path, name: str) -> Tensor:
    return load_file(folder / f"{name}.safetensors")["weights"]


def scores(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: entry[key] for key in entry.keys() & SAME} for entry in log]


def check(world: int, data: PreparedDataset, models: Path, output: Path, *cases: str) -> None:
    ended = launch(world, "shard", data.path, models, output, *cases)
    assert all(rank.status == 0 for rank in ended), [rank.err[-3000:] for rank in ended]
    if "llama-fp32" in cases:
        assert all(json.loads((output / f"fsdp-{rank}.json").read_text()) for rank in range(world)), (
            "FSDP2 is the oracle"
        )
    for case in cases:
        alone = shard_run(data, models, case)
        start = alone.adapter.weights.clone()
        alone.run()
        assert float((alone.adapter.weights - start).abs().max()) > 1e-3, "nothing was learned"
        assert alone.updates_per_epoch == 5 or case.endswith("dense"), (
            "the last one of an epoch has the sample that 4 updates of 8 leave over"
        )
        few, idle = scores(evaluations_of_few(alone)), 0
        for rank in range(world):
            whole = weights(output, f"{case}-whole-{rank}")
            told_whole = json.loads((output / f"{case}-whole-{rank}.json").read_text())
            for ours, one in zip(scores(told_whole["few"]), few, strict=True):
                assert ours == pytest.approx(one, rel=1e-6)
            assert float((whole - alone.adapter.weights).abs().max()) <= BOUND
            for kind in ("world", "node"):
                told = json.loads((output / f"{case}-{kind}-{rank}.json").read_text())
                assert torch.equal(weights(output, f"{case}-{kind}-{rank}"), whole), (case, kind, rank)
                assert scores(told["log"]) == scores(told_whole["log"])
                assert scores(told["few"]) == scores(told_whole["few"])
                assert told["kept"] * world == told["all"], "each rank keeps its part"
                assert told["most"] <= told["two"], "no more than two layers at a time"
                first = json.loads((output / f"{case}-{kind}-0.json").read_text())
                assert told["fetched"] == first["fetched"], "all ranks gather equally often"
                idle += told["idle"]
        assert idle, "every rank had a row each time: the comparison would not show what becomes of empty ones"


def test_two_ranks_share_a_base_and_make_the_adapter_of_one(
    data: PreparedDataset, models: Path, tmp_path: Path
) -> None:
    check(2, data, models, tmp_path, "qwen3-nf4", "llama-fp32")


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_ranks_shares_any_base(data: PreparedDataset, models: Path, tmp_path: Path, world: int) -> None:
    check(
        world, data, models, tmp_path, *(f"{name}-{bits}" for name in tiny.MODELS for bits in ("fp32", "nf4", "int8"))
    )


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_fewer_samples_than_ranks_in_every_packing(
    data: PreparedDataset, models: Path, tmp_path: Path, world: int
) -> None:
    check(world, data, models, tmp_path, *(f"qwen3-nf4-{packing}" for packing in ("none", "bucketed", "dense")))


@pytest.mark.slow
def test_early_stopping_ends_a_run_at_the_same_update_whether_its_base_is_shared_or_not(
    model_dir: Path, tmp_path: Path
) -> None:
    settings = {
        "model_name_or_path": str(model_dir), "dataset": [str(DATA / "demo" / "alpaca_en.json")], "cutoff_len": 128,
        "prepared_dir": str(tmp_path / "prepared"), "val_size": 5, "quantization_bit": 4, "lora_rank": 4,
        "learning_rate": 0.03, "lr_scheduler_type": "constant", "max_steps": 60, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "logging_steps": 1,
        "early_stopping_steps": 3, "load_best_model_at_end": True, "plot_loss": False,
    }  # fmt: skip
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    ended = launch(2, "stop", tmp_path / "settings.json", tmp_path)
    assert all(rank.status == 0 for rank in ended), [rank.err[-3000:] for rank in ended]
    off, world = (json.loads((tmp_path / kind / "all_results.json").read_text()) for kind in ("off", "world"))
    assert off["ended"] == world["ended"]
    assert off["ended"].startswith("early stopping: 3 evaluations without a better eval_loss")
    assert off["best_step"] == world["best_step"]
    assert 2 < off["best_step"] == off["train_steps"] - 6 < 54
    assert off["train_steps"] == world["train_steps"]
    for place in (".", "best", "last"):
        adapters = [(tmp_path / kind / place / "adapter_model.safetensors").read_bytes() for kind in ("off", "world")]
        assert adapters[0] == adapters[1], place


def test_a_rank_that_is_killed_in_a_gather_ends_the_others_within_seconds() -> None:
    started = time.monotonic()
    ended = launch(2, "fail", "gather", limit_s=60)
    assert [rank.status for rank in ended] == [1, -signal.SIGKILL]
    assert "rank 1 ended without an error message" in ended[0].out + ended[0].err
    assert "Traceback" not in ended[0].err
    assert time.monotonic() - started < 30, "torch's import included"


@pytest.mark.slow
def test_a_run_resumes_with_any_number_of_ranks_and_any_sharding(
    data: PreparedDataset, models: Path, tmp_path: Path
) -> None:
    case = "qwen3-nf4"
    whole = shard_run(data, models, case)
    whole.run()
    with pytest.raises(Stopped):
        shard_run(data, models, case, where=tmp_path / "1-off", save_every=5, on_update=stop_at_7).run()
    for step in ("shard-start", "shard-resume"):
        for world in (2, 4):
            ended = launch(world, step, data.path, models, tmp_path, case)
            assert all(rank.status == 0 for rank in ended), [rank.err[-3000:] for rank in ended]
    starts = [f"{world}-{kind}" for world in (1, 2, 4) for kind in ("off", "world") if (world, kind) != (1, "world")]
    files = [{p.name: p.read_bytes() for p in (tmp_path / start / "checkpoint-5").iterdir()} for start in starts]
    assert len({frozenset(names) for names in files}) == 1, "the same files whatever the sharding"
    # Of the same number of ranks they are the same bytes.
    for one, other in ((1, 2), (3, 4)):
        assert {n: b for n, b in files[one].items() if n.endswith("safetensors")} == {
            n: b for n, b in files[other].items() if n.endswith("safetensors")
        }
    for start in starts:
        for target in starts[1:]:
            ours = load_file(tmp_path / f"to-{target}-from-{start}" / "0.safetensors")["weights"]
            assert float((ours - whole.adapter.weights).abs().max()) <= BOUND, (start, target)
        alone = shard_run(data, models, case, where=tmp_path / start, save_every=5)
        assert alone.progress.update == 5
        alone.run()
        assert float((alone.adapter.weights - whole.adapter.weights).abs().max()) <= BOUND, start
