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
from prepared import random_dataset
from qlora_fast.data.dataset import PreparedDataset
from ranks_run import Stopped, launch, shard_run, stop_at_7

BOUND = 1e-6
SAME = {"loss", "grad_norm", "eval_loss", "eval_loss_hf", "eval_accuracy", "perplexity"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    # An odd number of samples: some ranks have no row of their own in an update or an evaluation.
    return random_dataset(tmp_path_factory.mktemp("sharded") / "p", 37, vocab=tiny.VOCAB, longest=40, seed=6)


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
        idle = 0
        for rank in range(world):
            whole = weights(output, f"{case}-whole-{rank}")
            log = json.loads((output / f"{case}-whole-{rank}.json").read_text())["log"]
            assert float((whole - alone.adapter.weights).abs().max()) <= BOUND
            for kind in ("world", "node"):
                told = json.loads((output / f"{case}-{kind}-{rank}.json").read_text())
                assert torch.equal(weights(output, f"{case}-{kind}-{rank}"), whole), (case, kind, rank)
                assert scores(told["log"]) == scores(log)
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


def test_a_rank_that_is_killed_in_a_gather_ends_the_others_within_seconds() -> None:
    started = time.monotonic()
    ended = launch(2, "fail", "gather", limit_s=60)
    assert [rank.status for rank in ended] == [1, -signal.SIGKILL]
    assert "rank 1 ended without saying why" in ended[0].out + ended[0].err
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
