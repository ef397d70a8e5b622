"""The Rust core as Python sees it: which exception, with what in it, and what is left behind."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracle import DEMO, TOKENIZER
from qlora_fast import _core
from qlora_fast.errors import ArtifactError, ConfigError, DataError, QloraFastError, TokenizerError

ROW = {"instruction": "a", "output": "b"}


def options(tmp_path: Path, data: object = None, **more: Any) -> Any:
    path = tmp_path / "data.json"
    if data is not None:
        path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    settings = {"data": [str(path)], "tokenizer": str(TOKENIZER), "template": "qwen3", "cutoff_len": 64}
    return {**settings, "out": str(tmp_path / "out"), **more}


@pytest.mark.parametrize(
    ("data", "more", "kind", "words"),
    [
        (None, {}, FileNotFoundError, "data.json"),
        ("", {}, DataError, "is empty"),
        ('[{"a": 1', {}, DataError, "data.json:1:"),
        ([{"instruction": "a", "output": ""}], {}, DataError, "nothing can be trained on"),
        ([ROW], {"template": "nonsense"}, TokenizerError, "unknown template `nonsense`"),
        ([ROW], {"template": "alpaca"}, TokenizerError, "eos_token"),
        ([ROW], {"tokenizer": "/nowhere/tokenizer.json"}, FileNotFoundError, "/nowhere/tokenizer.json"),
        ([ROW], {"tokenizer": str(DEMO / "alpaca_en.json")}, TokenizerError, "not a tokenizer"),
        ([ROW], {"colour": "red"}, ConfigError, "colour"),
        ([ROW], {"truncation": "middle"}, ConfigError, "middle"),
        ([ROW], {"cutoff_len": 3}, DataError, "cutoff_len_leaves_nothing_to_learn"),
    ],
)
def test_faults_are_the_right_exception_and_leave_nothing(
    tmp_path: Path, data: object, more: dict[str, Any], kind: type[Exception], words: str
) -> None:
    given = options(tmp_path, data, **more)
    with pytest.raises(kind) as caught:
        _core.prepare(given)
    shown = str(caught.value)
    assert words in shown
    if isinstance(caught.value, QloraFastError):
        assert not shown.endswith(".")
    assert [p.name for p in tmp_path.iterdir() if p.name != "data.json"] == []


def test_a_folder_that_is_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError) as caught:
        _core.prepare(options(tmp_path, [ROW]))
    assert "nothing was touched" in (caught.value.hint or "")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_the_report_is_the_manifest_and_more(tmp_path: Path) -> None:
    report = _core.prepare(options(tmp_path, [ROW]))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {k: report[k] for k in manifest} == manifest
    assert {"path", "reused", "engine", "seconds"} == set(report) - set(manifest)
    assert report["fingerprint"] == _core.fingerprint(
        options(tmp_path, threads=1, engine="tokenizers", out="elsewhere")
    )
    assert _core.prepare(options(tmp_path))["reused"]


def big(tmp_path: Path) -> Any:
    """Takes a while; all of it one part, so that nothing is kept of what is done."""
    rows = [{"instruction": f"say {i}", "output": "word " * 800} for i in range(30_000)]
    return options(tmp_path, rows, part_bytes=1 << 30)


def test_progress_is_told_and_its_exception_stops_the_run(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def progress(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        _core.prepare(big(tmp_path), progress)
    assert len(told) == 1
    assert 0 <= told[0][1] <= told[0][2]
    assert told[0][2] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["data.json"]


def test_ctrl_c_stops_the_run_and_leaves_nothing(tmp_path: Path) -> None:
    given = big(tmp_path)

    def prepare_again_and_again() -> None:
        while True:
            _core.prepare(given)
            shutil.rmtree(tmp_path / "out")

    timer = threading.Timer(0.15, signal.raise_signal, [signal.SIGINT])
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            prepare_again_and_again()
    finally:
        timer.cancel()
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_the_encoder_of_chat_is_the_encoder_of_the_training_data(tmp_path: Path) -> None:
    encoder = _core.ChatEncoder(str(TOKENIZER), "llama3", default_system="Be kind.")
    talk = json.dumps({"messages": [{"role": "user", "content": "a<|eot_id|>"}, {"role": "assistant", "content": "b"}]})
    ids, spans = encoder.encode(talk)
    assert ids.dtype == spans.dtype == np.int32
    rows = [{"instruction": "a<|eot_id|>", "output": "b"}]
    report = _core.prepare(options(tmp_path, rows, template="llama3", default_system="Be kind."))
    assert report["tokens"] == len(ids)
    assert report["supervised_tokens"] == int((spans[:, 1] - spans[:, 0]).sum())
    kinds = encoder.segments(talk)
    assert [text for kind, text, _ in kinds if kind == "control"].count("<|eot_id|>") == 3
    assert [(text, learned) for _, text, learned in kinds if learned] == [("b", True), ("<|eot_id|>", True)]
    assert encoder.stop_ids() == [ids[-1]]
    with pytest.raises(DataError):
        encoder.encode("{")
