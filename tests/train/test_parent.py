"""A new run that starts from a finished adapter: its weights, and what cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cli_run import cli
from qlora_fast.train import run

ROWS = [{"instruction": f"question {i}", "output": f"answer {i}"} for i in range(8)]
COMMON = ("lora_rank=4", "lora_target=q_proj,v_proj", "cutoff_len=64", "learning_rate=1e-2", "max_steps=2")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    (folder / "d.json").write_text(json.dumps(ROWS))
    (folder / "x.yaml").write_text(f"dataset: d.json\nmodel_name_or_path: {model_dir}\n")
    assert cli("train", "x.yaml", *COMMON, "output_dir=one", cwd=folder).status == 0
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("parent", ["one", "one/last"])
def test_the_new_run_starts_where_the_parent_ended(work: Path, tmp_path: Path, parent: str) -> None:
    out = tmp_path / "two"
    more = ("learning_rate=1e-12", "max_steps=1", f"adapter_name_or_path={parent}", f"output_dir={out}")
    ran = cli("train", "x.yaml", *COMMON, *more, cwd=work)
    assert ran.status == 0, ran.err
    before, after = weights(work / "one"), weights(out)
    assert any(tensor.abs().max() > 0 for name, tensor in before.items() if "lora_B" in name)
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-9)
    about = json.loads((out / "run.json").read_text())["parent"]
    assert Path(about["adapter"]) == (work / parent).resolve()
    assert len(about["sha256"]) == 64


@pytest.mark.parametrize(
    ("settings", "said", "hint"),
    [
        (["lora_rank=8"], "has other settings than this run", "set r=4"),
        (["lora_alpha=3"], "has other settings than this run", "lora_alpha=8"),
        (["lora_target=q_proj"], "is on other layers than this run's: q_proj, v_proj, not q_proj", "lora_target=q_proj,v_proj"),
        (["pissa_init=true"], "starts a new adapter", "leave one of the two out"),
        (["adapter_name_or_path=one,two"], "names several adapters", "qlora-fast merge"),
        (["adapter_name_or_path=nowhere"], "nowhere", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_the_way_out(work: Path, settings: list[str], said: str, hint: str) -> None:
    ran = cli("train", "x.yaml", *COMMON, "adapter_name_or_path=one", "output_dir=three", *settings, cwd=work)
    assert ran.status == 1
    assert said in ran.err
    assert hint.replace("r=4", "lora_rank=4") in ran.err
    assert not (work / "three").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("adapter_name_or_path=nowhere", "no folder `nowhere`"),
        ("adapter_name_or_path=x.yaml", "`x.yaml` is a file"),
        ("lora_rank=8", "has other settings than this run"),
        ("resume_from_checkpoint=one/last", "is an adapter, not a checkpoint"),
    ],
)
def test_what_files_tell_is_refused_before_data_and_base_are_read(
    setting: str, said: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "set_up", lambda *_, **__: pytest.fail("data and base were read"))
    ran = cli("train", "x.yaml", *COMMON, "adapter_name_or_path=one", "output_dir=three", setting, cwd=work)
    assert (ran.status, said in ran.err) == (1, True), ran.err


def test_another_base_is_refused(work: Path, tmp_path: Path, model_dir: Path) -> None:
    other = shutil.copytree(model_dir, tmp_path / "other")
    state = load_file(other / "model.safetensors")
    state["model.embed_tokens.weight"] += 1e-3
    save_file(state, other / "model.safetensors", {"format": "pt"})
    more = ("adapter_name_or_path=one", "output_dir=three", f"model_name_or_path={other}")
    ran = cli("train", "x.yaml", *COMMON, *more, cwd=work)
    assert ran.status == 1
    assert "was trained on another base model" in ran.err
