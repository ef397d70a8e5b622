"""Numbers that are not finite end a run or are named; they never pass as a result."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from parameter_run import Make, maker
from qlora_fast.errors import ArtifactError, TrainingError
from qlora_fast.train.health import DivergenceWatch, FiniteWatch
from qlora_fast.train.progress import Log


@pytest.fixture
def run(model_dir: Path, tmp_path: Path) -> Make:
    return maker(model_dir, tmp_path)


def poisoned(model_dir: Path, folder: Path, name: str, value: float) -> Path:
    shutil.copytree(model_dir, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[0] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("packing", ["exact", "none"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_base_model_that_is_not_finite_is_named_when_it_is_loaded(
    model_dir: Path, tmp_path: Path, packing: str, value: float
) -> None:
    model = poisoned(model_dir, tmp_path / "model", "model.norm.weight", value)
    with pytest.raises(ArtifactError, match=r"values that are not finite .* in `model.norm.weight`"):
        maker(model, tmp_path)(packing=packing)
    assert not (tmp_path / "1" / "run").exists()


def test_a_base_model_that_overflows_is_not_blamed_on_packing(model_dir: Path, tmp_path: Path) -> None:
    model = poisoned(model_dir, tmp_path / "model", "model.norm.weight", 1.0)
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][:] = 3e38
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="the base model's loss is not finite"):
        maker(model, tmp_path)()


@pytest.mark.parametrize("settings", [{"max_steps": 1}, {"max_steps": 4, "logging_steps": 100, "save_steps": 1}])
def test_a_run_whose_last_step_blows_the_weights_up_fails(run: Make, tmp_path: Path, settings: dict[str, int]) -> None:
    more = {"save_strategy": "steps", **settings} if "save_steps" in settings else settings
    with pytest.raises(TrainingError, match="weights are not finite after update 1"):
        run(learning_rate=1e38, max_grad_norm=0, lr_scheduler_type="constant", **more)
    folder = tmp_path / "1" / "run"
    assert not list(folder.rglob("*.safetensors")), "nothing of it is kept"
    assert json.loads((folder / "run.json").read_text())["ended"].startswith(
        "error after update 1: the adapter's weights"
    )


def test_the_first_update_of_each_kind_is_found_on_the_device() -> None:
    watch, fine = FiniteWatch(torch.device("cpu")), torch.ones(4)
    nan, inf = torch.tensor(math.nan), torch.tensor(math.inf)
    watch.note(1, torch.tensor(1.0), torch.tensor(1.0), fine)
    assert watch.read() == (0, 0)
    watch.note(2, torch.tensor(1.0), torch.tensor(1.0), torch.tensor([1.0, -math.inf]))
    watch.note(3, nan, torch.tensor(1.0), torch.tensor([1.0, math.nan]))
    watch.note(4, torch.tensor(1.0), inf, fine)
    assert watch.read() == (3, 2)


def history(*losses: float) -> list[Log]:
    return [{"step": float(i), "loss": loss} for i, loss in enumerate(losses, 1)]


def warnings(vocabulary: int, losses: list[float]) -> list[str]:
    watch, entries = DivergenceWatch(vocabulary), history(*losses)
    return [text for n in range(1, len(entries) + 1) if (text := watch.look(entries[:n]))]


def test_a_diverging_run_is_said_once() -> None:
    found = warnings(50_000, [2.0, 1.8, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0])
    assert len(found) == 1
    assert found[0].startswith("the run is diverging: its loss is 7.00 at update 5, it started at 2.00")


@pytest.mark.parametrize(
    "losses",
    [[2.0, 1.9, 1.8, 1.7, 1.6], [2.0, 5.0, 6.0, 2.0, 5.0, 6.0, 2.0], [0.01, 0.05, 0.05, 0.05, 0.05], [9.0, 9.5, 9.9, 9.9, 9.9]],
)  # fmt: skip
def test_noise_is_not_a_divergence(losses: list[float]) -> None:
    assert warnings(50_000, losses) == []


def test_worse_than_guessing_is_a_divergence_wherever_it_started() -> None:
    assert len(warnings(97, [4.5, 6.0, 6.0, 6.0])) == 1
