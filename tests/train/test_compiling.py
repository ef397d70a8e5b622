"""When the layers of a run are compiled, when not, and that everybody is told: run.json, the checkpoint, the user who asked for it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from parameter_run import Make, Run, go_on, maker
from qlora_fast.config import load, of
from qlora_fast.config.foreign import TRANSLATED
from qlora_fast.config.foreign.rules import RULES
from qlora_fast.errors import ConfigError
from qlora_fast.model import compiled, host, shapes
from qlora_fast.train import compiling, plan_report
from qlora_fast.train.compile_plan import against, least_rows, rows_of
from qlora_fast.train.compiling import Trial
from qlora_fast.train.distributed import Ranks


@pytest.fixture
def run(model_dir: Path, tmp_path: Path) -> Make:
    return maker(model_dir, tmp_path)


@pytest.fixture
def untranslated(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """In place of a compiler the layers' own code, scaled a little, so that it can be told whether it ran; gives who ran it."""
    ran: list[Any] = []

    def function(forward: Callable[..., Any], whole: bool) -> Callable[..., Any]:
        def call(layer: Any, *args: Any, **options: Any) -> Any:
            ran.append(layer)
            return forward(layer, *args, **options) * (1 + 1e-6)

        return call

    monkeypatch.setattr(compiled, "_function", function)
    monkeypatch.setattr(compiling, "missing", lambda _: None)
    return ran


def told(made: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made.folder / "run.json").read_text())["torch_compile"]
    return found


def test_on_a_cpu_auto_compiles_nothing_and_says_why(run: Make) -> None:
    assert told(run(max_steps=1)) == {"used": False, "reason": "on a CPU compiled layers are not faster"}
    assert told(run(max_steps=1, torch_compile="false")) == {"used": False, "reason": "torch_compile: false"}


def test_true_compiles_or_ends_the_run_with_the_reason(
    run: Make, untranslated: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(max_steps=1, torch_compile="true")
    found = told(made)
    assert (found["used"], found["layers"], found["one_graph"]) == (True, 1, False)
    assert set(found) == {"used", "layers", "one_graph", "seconds_to_compile", "longest_row_ms"}
    assert untranslated

    monkeypatch.setattr(compiling, "missing", lambda _: "there is no C++ compiler (g++)")
    with pytest.raises(
        ConfigError, match=r"`torch_compile: true` cannot be done: there is no C\+\+ compiler"
    ) as caught:
        run(max_steps=1, torch_compile="true")
    assert "torch_compile: auto" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="8-bit weights"):
        compiling.compile_layers(setup(quantization_bit=8, torch_compile="true"), Ranks())
    with pytest.raises(ConfigError, match="layer by layer"):
        compiling.compile_layers(setup(torch_compile="true", stream=object()), Ranks())


def test_what_is_wrong_or_slower_is_not_kept(
    run: Make, untranslated: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "against", lambda *_, **__: None)
    monkeypatch.setattr(Trial, "slow", lambda _: "it is slower")
    assert told(run(max_steps=1)) == {"used": False, "reason": "it is slower"}
    count = len(untranslated)
    monkeypatch.setattr(Trial, "slow", lambda _: "")
    assert told(run(max_steps=1))["used"]
    assert len(untranslated) > count + 3, "the rows of the run, not only those of the trial"

    def broken(forward: Callable[..., Any], whole: bool) -> Callable[..., Any]:
        return lambda layer, *args, **options: forward(layer, *args, **options).flip(-1)

    monkeypatch.setattr(compiled, "_function", broken)
    assert "differs from the eager one" in told(run(max_steps=1))["reason"]
    with pytest.raises(ConfigError, match="differs from the eager one"):
        run(max_steps=1, torch_compile="true")

    def fails(forward: Callable[..., Any], whole: bool) -> Callable[..., Any]:
        raise RuntimeError("C++ compile error\nmore")

    monkeypatch.setattr(compiled, "_function", fails)
    plain = run(max_steps=2, torch_compile="false")
    tried = run(max_steps=2)
    assert told(tried)["reason"] == "C++ compile error"
    for name, weight in tried.weights.items():
        assert torch.equal(weight, plain.weights[name]), "a trial leaves nothing behind"


def test_a_resumed_run_does_as_its_checkpoint_did(
    run: Make, untranslated: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The machine decides otherwise when the run resumes, as it may where a row is hardly faster."""
    monkeypatch.setattr(compiling, "against", lambda *_, **__: None)
    monkeypatch.setattr(Trial, "slow", lambda _: "")
    made = run(save_strategy="steps", save_steps=2, logging_steps=1)
    adapter = made.folder / "adapter_model.safetensors"
    ended = adapter.read_bytes()
    stored = json.loads((made.folder / "checkpoint-4" / "progress.json").read_text())["identity"]
    assert stored["compiled_layers"] is True

    monkeypatch.setattr(compiling, "against", lambda *_, **__: "too few rows")
    monkeypatch.setattr(Trial, "slow", lambda _: "it is slower")
    go_on(made, made.folder / "checkpoint-4")
    assert told(made)["used"]
    assert adapter.read_bytes() == ended, "bit for bit"

    monkeypatch.setattr(compiling, "missing", lambda _: "there is no C++ compiler (g++)")
    go_on(made, made.folder / "checkpoint-2")
    assert "rounds differently: there is no C++ compiler" in caplog.text
    assert adapter.read_bytes() != ended

    # The checkpoints since then are of eager layers, and so is a run that resumes from them.
    monkeypatch.setattr(compiling, "missing", lambda _: None)
    monkeypatch.setattr(compiling, "against", lambda *_, **__: None)
    monkeypatch.setattr(Trial, "slow", lambda _: "")
    go_on(made, made.folder / "checkpoint-4")
    assert told(made) == {"used": False, "reason": "as in the checkpoint"}


def setup(stream: object = None, **settings: Any) -> Any:
    """As much of a set-up as rules are asked about."""
    return SimpleNamespace(
        config=of(**settings),
        forward=SimpleNamespace(stream=stream),
        model=tiny.llama(),
        machine=SimpleNamespace(device=torch.device("cpu")),
    )


def test_all_ranks_compile_or_none(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class OtherRefuses(Ranks):
        def any(self, said: bool) -> bool:
            return True

    monkeypatch.setattr(compiling, "impossible", lambda _: None)
    monkeypatch.setattr(compiling, "_not_worth_it", lambda _: None)
    with caplog.at_level(logging.INFO):
        found = compiling.compile_layers(setup(), OtherRefuses())
    assert found.described() == {"used": False, "reason": "another process cannot compile"}
    assert "not compiled: another process cannot compile" in caplog.text


@pytest.mark.parametrize(
    ("kernels", "gpu", "ours", "rows", "reason"),
    [
        ("auto", False, False, 10**9, "on a CPU"),
        ("off", True, False, 10**9, "kernels: off"),
        ("auto", True, True, 10**9, "our kernels"),
        ("auto", True, False, 937, "from about 938 rows on; there are 937"),
        ("auto", True, False, 938, None),
    ],
)
def test_what_auto_asks_for(kernels: str, gpu: bool, ours: bool, rows: int, reason: str | None) -> None:
    found = against(of(kernels=kernels), gpu=gpu, kernels=ours, layers=32, rows=rows)
    assert (found is None) if reason is None else reason in str(found)
    assert least_rows(64) == pytest.approx(least_rows(32) / 2, rel=0.01)


def test_plan_says_what_auto_will_do_and_why(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run(max_steps=1)
    file = made.folder.parent / "tiny.yaml"

    def planned(*words: str) -> dict[str, Any]:
        found: dict[str, Any] = plan_report.from_data(load(file, list(words)).config)["torch_compile"]
        return found

    assert planned() == {"used": False, "why": told(made)["reason"]}
    assert planned("torch_compile=true") == {"used": True, "why": "as set"}
    monkeypatch.setattr(host, "gpu_free", lambda: 80 << 30)
    assert planned()["why"] == "our kernels compute the layers", "a Qwen3"
    known = json.loads((Path(load(file, []).config.model_name_or_path) / "config.json").read_text())
    monkeypatch.setattr(shapes, "config_of", lambda _: {**known, "model_type": "olmo2"})
    assert "pays from about 15,000 rows on; there are 1" in planned()["why"], "it has two layers"
    assert planned("max_steps=50000")["used"]


def test_rows_are_counted_per_device() -> None:
    plan: Any = SimpleNamespace(update_offsets=np.array([0, 4, 8, 10]))
    assert rows_of(plan, 3, 1) == 10
    assert rows_of(plan, 30, 2) == 50
    assert rows_of(plan, 6, 4) == 6


@pytest.mark.parametrize(
    ("eager", "own", "loss", "gradient", "wrong", "slow"),
    [
        (1.0, 0.9, 1e-6, 1e-6, "", ""),
        (1.0, 0.98, 1e-6, 1e-6, "", "980.0 ms compiled, 1000.0 ms"),
        (1.0, 0.5, 2e-2, 1e-6, "loss differs", ""),
        (1.0, 0.5, 1e-6, 2e-4, "gradient differs", ""),
        (1.0, 0.5, float("nan"), 1e-6, "loss differs", ""),
        (1.0, 0.5, 2e-2, None, "", ""),
        (1.0, 0.5, 0.2, None, "loss differs", ""),
    ],
)
def test_a_trial_is_judged(
    eager: float, own: float, loss: float, gradient: float | None, wrong: str, slow: str
) -> None:
    trial = Trial(30, eager, own, loss, gradient)
    assert wrong in trial.wrong(torch.float32)
    assert bool(trial.wrong(torch.float32)) == bool(wrong)
    assert slow in trial.slow()
    assert bool(trial.slow()) == bool(slow)


def test_the_key_of_others_is_ours() -> None:
    assert of(torch_compile="true").torch_compile == "true"
    assert "torch_compile" not in RULES
    assert "torch_compile" not in TRANSLATED
    assert {"torch_compile_backend", "torch_compile_mode"} <= set(RULES)


@pytest.mark.slow
@pytest.mark.skipif(compiled.missing(torch.device("cpu")) is not None, reason="no C++ compiler")
def test_a_whole_run_of_compiled_code(run: Make) -> None:
    """By inductor: the run without it, to its rounding; and resumed the same bits."""
    settings = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 1}
    plain, made = run(**settings), run(**settings, torch_compile="true")
    assert told(made)["used"]
    assert made.column("loss") == pytest.approx(plain.column("loss"), rel=1e-5)
    ended = (made.folder / "adapter_model.safetensors").read_bytes()
    go_on(made, made.folder / "checkpoint-4")
    assert (made.folder / "adapter_model.safetensors").read_bytes() == ended
