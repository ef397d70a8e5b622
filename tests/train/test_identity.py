"""A checkpoint is resumed only with the base model and the data that it was written with, and a difference is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from qlora_fast.config import Config, load
from qlora_fast.data import selection
from qlora_fast.data.tokenizer import tokenizer_of
from qlora_fast.errors import ArtifactError, ConfigError
from qlora_fast.hub.untrusted import weight_files
from qlora_fast.train import identity
from qlora_fast.train.distributed import Ranks
from qlora_fast.train.run import train
from tiny_folder import ALPACA, config_file

SETTINGS = {
    "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "val_size": 0,
    "plot_loss": "false", "max_samples": 16,
}  # fmt: skip


@pytest.fixture
def made(model_dir: Path, tmp_path: Path) -> Path:
    """A run that was killed behind update 2, with a model and an evaluation set of its own; its config."""
    shutil.copytree(model_dir, tmp_path / "model")
    rows = json.loads(ALPACA.read_text())
    (tmp_path / "eval.json").write_text(json.dumps(rows[-6:]))
    config = config_file(tmp_path, tmp_path / "model", eval_dataset=tmp_path / "eval.json", **SETTINGS)
    train(load(config).config)
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    return config


def resume(config: Path, *, anyway: bool = False) -> None:
    train(load(config, ["resume_from_checkpoint=true"]).config, resume_anyway=anyway)


def other_weights(folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    before = path.stat()
    tensors = load_file(path)
    tensors["model.norm.weight"][-1] += 1e-3
    save_file(tensors, path, metadata={"format": "pt"})
    # The same size and time: only the content tells them apart.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_settings(folder: Path) -> None:
    path = folder / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rms_norm_eps": 1e-2}))


def other_generation(folder: Path) -> None:
    (folder / "model" / "generation_config.json").write_text('{"eos_token_id": 5}')


def other_evaluation(folder: Path) -> None:
    (folder / "eval.json").write_text(json.dumps(json.loads(ALPACA.read_text())[:6]))


CHANGES: dict[str, Callable[[Path], None]] = {
    "base_weights": other_weights,
    "base_config": other_settings,
    "generation_config": other_generation,
    "eval_data": other_evaluation,
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_has_changed_is_named_and_refused(made: Path, name: str) -> None:
    CHANGES[name](made.parent)
    with pytest.raises(ArtifactError, match=f"is of another run: {name}: ") as caught:
        resume(made)
    assert ";" not in caught.value.message, "nothing else differs"
    assert "--resume-anyway" in str(caught.value.hint)


def test_resume_anyway_says_what_will_differ(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    other_weights(made.parent)
    resume(made, anyway=True)
    assert "from update 2 on it trains with: base_weights: " in caplog.text
    assert (made.parent / "run" / "checkpoint-4").is_dir()


def test_another_layout_of_the_same_json_is_the_same_model(made: Path) -> None:
    path = made.parent / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
    resume(made)


def test_other_libraries_are_noted_and_not_refused(
    made: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from qlora_fast.train import checkpoint

    monkeypatch.setattr(checkpoint, "library_versions", lambda: {**identity.library_versions(), "torch": "9.9"})
    with caplog.at_level("INFO", logger="qlora_fast"):
        resume(made)
    assert "other library versions than at the checkpoint" in caplog.text
    assert "→ '9.9'" in caplog.text


def test_run_json_has_the_hashes(made: Path) -> None:
    stored = json.loads((made.parent / "run" / "run.json").read_text())["identity"]
    assert set(stored) == set(identity.FILES)
    assert len(stored["base_weights"]) == 64


def test_every_file_of_the_index_counts(tmp_path: Path) -> None:
    tiny.qwen3().save_pretrained(tmp_path, max_shard_size="20KB")  # type: ignore[operator]
    files = weight_files(tmp_path)
    assert len(files) > 2
    before = identity.base_identity(str(tmp_path))
    content = bytearray(files[-1].read_bytes())
    content[-1] ^= 1
    files[-1].write_bytes(content)
    assert identity.base_identity(str(tmp_path))["base_weights"] != before["base_weights"]


class Second(Ranks):
    """The second rank of two, whose first one has something else."""

    def __init__(self, changed: dict[str, Any]) -> None:
        super().__init__(rank=1, world=2)
        self._changed = changed

    def from_first(self, make: Callable[[], str]) -> str:
        return json.dumps({**json.loads(make()), **self._changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": "0" * 64}, "rank 1 prepared other data than rank 0 .data: '000000000000…'"),
        ({"training_samples": "ab"}, "prepared other data"),
        ({"base_weights": "ab"}, "rank 1 loaded another base model than rank 0"),
    ],
)
def test_ranks_with_other_files_are_named(made: Path, changed: dict[str, Any], message: str) -> None:
    config = load(made).config
    data = selection.load(config, tokenizer_of(config))
    identity.identity_of(config, data, config.model_name_or_path, Second({}))
    with pytest.raises(ArtifactError, match=message):
        identity.identity_of(config, data, config.model_name_or_path, Second(changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rate": 1.0}, "rank 1 has other settings than rank 0 .learning_rate: 1.0 →"),
        ({"shard_base": "world"}, "rank 1 has other settings than rank 0 .shard_base: 'world' → 'off'"),
        ({"resume_from_checkpoint": True}, "other settings than rank 0 .resume_from_checkpoint"),
        ({"offload_base": True}, "other settings than rank 0 .offload_base"),
        ({"save_steps": 3}, "rank 1 has other settings than rank 0 .save_steps: 3 → 2"),
        ({"max_tokens_per_row": 9}, "rank 1 has other settings than rank 0 .max_tokens_per_row: 9 → "),
    ],
)
def test_ranks_with_other_settings_are_named(made: Path, changed: dict[str, Any], message: str) -> None:
    config = load(made).config
    identity.check_settings(replace(config, output_dir="elsewhere"), Second({}))
    with pytest.raises(ConfigError, match=message):
        identity.check_settings(config, Second(changed))


@pytest.mark.parametrize(
    ("settings", "hint"),
    [({}, "versions"), ({"adapter_name_or_path": "x"}, "adapter_name_or_path"), ({"pissa_init": True}, "pissa_init")],
)
def test_ranks_that_start_from_other_adapters_are_named(settings: dict[str, Any], hint: str) -> None:
    """A parent of the same name on another machine, or PiSSA computed by another GPU: gradients alone are summed."""
    weights = torch.arange(5.0)
    identity.check_same_start(Config(**settings), weights, Second({}))
    with pytest.raises(ArtifactError, match="rank 1 starts from another adapter than rank 0") as caught:
        identity.check_same_start(Config(**settings), weights, Second({"adapter": "ab"}))
    assert hint in str(caught.value.hint)
