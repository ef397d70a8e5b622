"""However an update is cut into rows and ranks, it is the same update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tiny
from prepared import random_dataset, write_prepared
from qlora_fast.data.batch import Row, packed_row, padded_row
from qlora_fast.data.dataset import PreparedDataset, open_prepared
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.train.forward import Forward
from qlora_fast.train.optimizer import AdamW, AdamWOptions
from tiny_run import losses, tiny_run

Cut = Callable[[PreparedDataset], list[Row]]

CUTS: dict[str, Cut] = {
    "bs 8": lambda d: [padded_row(d, range(8))],
    "bs 2 x 4": lambda d: [padded_row(d, range(i, i + 2)) for i in range(0, 8, 2)],
    "bs 1 x 8": lambda d: [padded_row(d, [i]) for i in range(8)],
    "1 packed row": lambda d: [packed_row(d, range(8))],
    "3 packed rows, shuffled": lambda d: [packed_row(d, ids) for ids in ([6, 1], [3, 0, 7], [2, 5, 4])],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return random_dataset(tmp_path_factory.mktemp("grad") / "p", 8, vocab=tiny.VOCAB, longest=80, seed=3)


def gradient(model: nn.Module, adapter: Adapter, rows: Sequence[Row], *, mean_of_means: bool = False) -> Tensor:
    forward = Forward(model, torch.device("cpu"))
    supervised = sum(len(row.targets) for row in rows)
    adapter.publish()
    for row in rows:
        divisor = len(row.targets) * len(rows) if mean_of_means else supervised
        (forward.loss_sum(row) / divisor).backward()
        adapter.collect()
    return adapter.gradient.clone()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("kind", tiny.MODELS)
@pytest.mark.parametrize("cut", CUTS)
def test_every_cut_gives_the_gradient_of_the_padded_batch(data: PreparedDataset, kind: str, cut: str) -> None:
    model = tiny.adapted(tiny.MODELS[kind]())
    adapter = Adapter(model)
    assert relative(gradient(model, adapter, CUTS[cut](data)), gradient(model, adapter, CUTS["bs 8"](data))) < 1e-5


def test_the_mean_of_micro_batch_means_would_fail_this(data: PreparedDataset) -> None:
    model = tiny.adapted(tiny.qwen3())
    adapter = Adapter(model)
    right = gradient(model, adapter, CUTS["bs 1 x 8"](data))
    assert relative(gradient(model, adapter, CUTS["bs 1 x 8"](data), mean_of_means=True), right) > 0.1


def test_transformers_own_loss_and_attention_give_the_same_gradient(data: PreparedDataset) -> None:
    reference = tiny.adapted(tiny.qwen3(attention="sdpa"))
    for module in reference.modules():
        getattr(module, "lora_variant", {}).clear()  # PEFT's own arithmetic
    theirs = Adapter(reference)
    supervised = int(data.supervised.sum())
    for sample in data:
        ids, labels = (torch.from_numpy(sample[key].astype(np.int64))[None] for key in ("input_ids", "labels"))
        reference(input_ids=ids, labels=labels, use_cache=False, num_items_in_batch=supervised).loss.backward()
    model = tiny.adapted(tiny.qwen3())
    adapter = Adapter(model)
    gradient(model, adapter, CUTS["1 packed row"](data))
    assert relative(adapter.gradient, theirs.gradient) < 1e-5


@pytest.mark.parametrize("cut", ["bs 2 x 4", "1 packed row", "3 packed rows, shuffled"])
def test_twenty_updates_end_at_the_same_weights(data: PreparedDataset, cut: str) -> None:
    def trained(rows: Sequence[Row]) -> Tensor:
        model = tiny.adapted(tiny.qwen3())
        adapter = Adapter(model)
        optimizer = AdamW(adapter, AdamWOptions(weight_decay=0.1))
        forward = Forward(model, torch.device("cpu"))
        for _ in range(20):
            for row in rows:
                (forward.loss_sum(row) / int(data.supervised.sum())).backward()
                adapter.collect()
            optimizer.step(1e-3)
        return adapter.weights

    assert relative(trained(CUTS[cut](data)), trained(CUTS["bs 8"](data))) < 1e-4


def test_the_first_token_of_a_packed_sample_is_never_a_target(data: PreparedDataset) -> None:
    row = packed_row(data, range(8))
    assert row.cu_seqlens is not None
    assert not set((row.target_index + 1).tolist()) & set(row.cu_seqlens.tolist())


def test_a_row_without_supervised_tokens_adds_zero(tmp_path: Path) -> None:
    data = open_prepared(write_prepared(tmp_path / "p", [([1, 2, 3], []), ([4, 5, 6, 7], [(2, 4)])]))
    model = tiny.adapted(tiny.qwen3())
    adapter = Adapter(model)
    forward = Forward(model, torch.device("cpu"))
    empty = forward.loss_sum(packed_row(data, [0]))
    assert empty.item() == 0
    with_it = gradient(model, adapter, [packed_row(data, [0]), packed_row(data, [1])])
    assert relative(with_it, gradient(model, adapter, [packed_row(data, [1])])) < 1e-6
    with forward.scoring():
        assert [len(part) for part in forward.token_losses(packed_row(data, [0]))] == [0, 0]


@pytest.mark.parametrize("kind", tiny.MODELS)
def test_exact_packing_follows_the_plain_runs_curve(tmp_path: Path, kind: str) -> None:
    data = random_dataset(tmp_path / "p", 64, vocab=12, longest=40, seed=5)

    def curve(packing: str) -> list[float]:
        model = tiny.adapted(tiny.MODELS[kind](), warm=False)
        trainer = tiny_run(data, model=model, packing=packing, updates=50, lr=2e-3)
        trainer.run()
        return losses(trainer)

    packed, plain, bucketed = curve("exact"), curve("none"), curve("bucketed")
    assert plain[-1] < plain[0] - 0.5, "nothing was learned: the comparison would mean nothing"
    assert max(abs(a - b) for a, b in zip(packed, plain, strict=True)) < 1e-4
    assert max(abs(a - b) for a, b in zip(bucketed, plain, strict=True)) < 1e-4
