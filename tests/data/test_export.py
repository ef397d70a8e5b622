"""What other trainers are given is what we train on: ids, labels, positions, whole or packed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prepared import random_dataset, write_prepared
from qlora_fast.data import export as module
from qlora_fast.data.dataset import PreparedDataset, open_prepared
from qlora_fast.data.export import export
from qlora_fast.errors import ConfigError

pytest.importorskip("pyarrow")


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    return random_dataset(tmp_path / "prepared", 50, vocab=97, longest=40)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows, by a reader that knows nothing of ours."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".arrow":
        import pyarrow as pa

        with pa.memory_map(str(path)) as file:
            rows: list[dict[str, Any]] = pa.ipc.open_file(file).read_all().to_pylist()
            return rows
    from pyarrow import parquet

    files = [path] if path.is_file() else sorted(path.iterdir())
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


@pytest.fixture(params=["out.parquet", "out.arrow", "out.jsonl", "out"])
def to(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Small groups and files: borders must not show.
    monkeypatch.setattr(module, "_GROUP_TOKENS", 100)
    monkeypatch.setattr(module, "_FILE_TOKENS", 300)
    return tmp_path / str(request.param)


def test_a_row_is_a_sample(dataset: PreparedDataset, to: Path) -> None:
    done = export(dataset, to)
    rows = read(to)
    assert (done.rows, done.samples, done.tokens) == (50, 50, int(dataset.lengths.sum()))
    assert (done.files > 1) == (done.format == "folder")
    assert len(rows) == 50
    for row, sample in zip(rows, dataset, strict=True):
        assert list(row) == ["input_ids", "labels", "position_ids"]
        assert row["input_ids"] == sample["input_ids"].tolist()
        assert row["labels"] == sample["labels"].tolist()
        assert row["position_ids"] == list(range(len(row["input_ids"])))
    assert not [p for p in to.parent.iterdir() if p.name.startswith(".")]


def test_packed_rows_hold_whole_samples_once(dataset: PreparedDataset, to: Path) -> None:
    done = export(dataset, to, packed=64)
    rows = read(to)
    assert done.rows == len(rows) < 50
    seen = []
    for row in rows:
        assert len(row["input_ids"]) <= 64
        ends = np.cumsum(row["seq_lengths"])
        assert ends[-1] == len(row["input_ids"]) == len(row["labels"])
        assert row["position_ids"] == [i for n in row["seq_lengths"] for i in range(n)]
        for end, n in zip(ends, row["seq_lengths"], strict=True):
            seen.append((tuple(row["input_ids"][end - n : end]), tuple(row["labels"][end - n : end])))
    expected = [(tuple(s["input_ids"].tolist()), tuple(s["labels"].tolist())) for s in dataset]
    assert sorted(seen) == sorted(expected)
    assert all(labels[0] == -100 for _, labels in seen)


def test_columns_are_chosen(dataset: PreparedDataset, to: Path) -> None:
    export(dataset, to, columns=["labels", "attention_mask"])
    row = read(to)[0]
    assert list(row) == ["labels", "attention_mask"]
    assert row["attention_mask"] == [1] * len(row["labels"])


def test_several_spans_and_shards(tmp_path: Path) -> None:
    samples = [([1, 2, 3, 4, 5, 6], [(1, 2), (4, 6)]), ([7, 8], [(1, 2)]), ([9, 9, 9], [(2, 3)])]
    dataset = open_prepared(write_prepared(tmp_path / "p", samples, shards=2))
    export(dataset, tmp_path / "x.parquet")
    assert [r["labels"] for r in read(tmp_path / "x.parquet")] == [
        [-100, 2, -100, -100, 5, 6],
        [-100, 8],
        [-100, -100, 9],
    ]


def test_memory_is_bounded_by_groups(dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import parquet

    monkeypatch.setattr(module, "_GROUP_TOKENS", 100)
    export(dataset, tmp_path / "x.parquet")
    assert parquet.ParquetFile(tmp_path / "x.parquet").num_row_groups >= int(dataset.lengths.sum()) // 140


@pytest.mark.parametrize(
    ("to", "more", "words"),
    [
        ("x.csv", {}, "no format"),
        ("x.parquet", {"columns": ["input_ids", "text"]}, "no column `text`"),
        ("x.parquet", {"packed": 8}, "shorter than the longest sample"),
        ("taken", {}, "is not an export"),
        ("data.jsonl", {}, "is not an export"),
        ("data.parquet", {}, "is not an export"),
        ("data.arrow", {}, "is not an export"),
    ],
)
def test_what_cannot_be_is_refused(
    dataset: PreparedDataset, tmp_path: Path, to: str, more: dict[str, Any], words: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    for name in ("data.jsonl", "data.parquet", "data.arrow"):
        (tmp_path / name).write_text('{"instruction": "q", "output": "a"}\n')
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=words) as caught:
        export(dataset, tmp_path / to, **more)
    assert caught.value.hint
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_a_failed_export_leaves_what_was_there(
    dataset: PreparedDataset, tmp_path: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(dataset, to)
    before = read(to)

    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_labels", broken)
        with pytest.raises(OSError, match="no space"):
            export(dataset, to, packed=64)
    assert read(to) == before
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    export(dataset, to, packed=64)
    assert len(read(to)) < len(before)
