"""NEFTune: noise of the right size, on training rows alone, and the same again after a resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from prepared import random_dataset
from qlora_fast.data.batch import own_lengths, packed_row, padded_row
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.train.evaluate import EvalOptions, evaluate
from qlora_fast.train.forward import Forward
from tiny_run import CPU, losses, tiny_run, weights_digest


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return random_dataset(tmp_path_factory.mktemp("noise") / "p", 40, vocab=12, longest=40)


def embedded(forward: Forward, row: object) -> torch.Tensor:
    """What the first layer is given."""
    seen: list[torch.Tensor] = []
    layer = forward.model.get_base_model().get_decoder().layers[0]  # type: ignore[operator]
    hook = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    forward.loss_sum(row)  # type: ignore[arg-type]
    hook.remove()
    return seen[0].detach()


@pytest.mark.parametrize("make", [packed_row, padded_row])
def test_the_noise_goes_by_each_samples_own_length(data: PreparedDataset, make: object) -> None:
    row = make(data, range(8))  # type: ignore[operator]
    forward = Forward(tiny.adapted(tiny.qwen3()), CPU, noise=5.0)
    plain = Forward(tiny.adapted(tiny.qwen3()), CPU)
    torch.manual_seed(0)
    noise = embedded(forward, row) - embedded(plain, row)
    reach = 5.0 / np.sqrt(own_lengths(row) * noise.shape[-1])
    relative = noise.numpy() / reach[..., None]
    assert 0.95 < np.abs(relative).max() < 1.001
    # Uniform on (−1, 1): mean 0, deviation 1/√3, for short samples as for long ones.
    for length in np.unique(own_lengths(row)):
        own = relative[own_lengths(row) == length]
        assert abs(own.mean()) < 0.15, length
        assert abs(own.std() - 3**-0.5) < 0.1, length


def test_it_changes_training_but_not_evaluation(data: PreparedDataset) -> None:
    row = packed_row(data, range(8))
    noisy, plain = (Forward(tiny.adapted(tiny.qwen3()), CPU, noise=n) for n in (5.0, 0.0))
    assert noisy.loss_sum(row).item() != plain.loss_sum(row).item()
    options = EvalOptions(4, 100, True, True)
    few = np.arange(10)
    scores = [evaluate(forward, data, few, options)["eval_loss"] for forward in (noisy, noisy, plain)]
    assert scores[0] == scores[1] == scores[2]
    with noisy.scoring():
        assert torch.equal(noisy.loss_sum(row), plain.loss_sum(row))


def test_a_resumed_run_with_noise_ends_bit_identical(data: PreparedDataset, tmp_path: Path) -> None:
    whole = tiny_run(data, tmp_path / "whole", noise=5.0, updates=8, save_every=4)
    whole.run()
    plain = tiny_run(data, updates=8)
    plain.run()
    assert losses(plain) != losses(whole)
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole" / "checkpoint-4").rename(tmp_path / "cut" / "checkpoint-4")
    resumed = tiny_run(data, tmp_path / "cut", noise=5.0, updates=8, save_every=4)
    assert resumed.progress.update == 4
    resumed.run()
    assert weights_digest(resumed) == weights_digest(whole)
