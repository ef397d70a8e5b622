"""The prepared dataset and the rows cut from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prepared import random_dataset, write_prepared
from qlora_fast.data.batch import packed_row, padded_row
from qlora_fast.data.dataset import IGNORE, PreparedDataset, open_prepared
from qlora_fast.errors import ArtifactError

SAMPLES = [([5, 6, 7, 8], [(2, 4)]), ([1, 2], [(1, 2)]), ([9, 8, 7, 6, 5, 4], [(1, 2), (4, 6)])]


@pytest.fixture(params=[1, 2, 3])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> PreparedDataset:
    return open_prepared(write_prepared(tmp_path / "p", SAMPLES, shards=request.param))


def test_samples_come_back_with_labels(dataset: PreparedDataset) -> None:
    assert len(dataset) == 3
    assert [s["input_ids"].tolist() for s in dataset] == [ids for ids, _ in SAMPLES]
    assert dataset[0]["labels"].tolist() == [IGNORE, IGNORE, 7, 8]
    assert dataset[-1]["labels"].tolist() == [IGNORE, 8, IGNORE, IGNORE, 5, 4]
    assert dataset.lengths.tolist() == [4, 2, 6]
    assert dataset.supervised.tolist() == [2, 1, 3]
    assert [dataset.origin(i).line for i in range(3)] == [1, 2, 3]
    with pytest.raises(IndexError):
        dataset[3]


def test_a_packed_row_has_borders_and_shifted_targets(dataset: PreparedDataset) -> None:
    row = packed_row(dataset, [2, 0])
    assert row.input_ids.tolist() == [[9, 8, 7, 6, 5, 4, 5, 6, 7, 8]]
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 2, 3]]
    assert row.cu_seqlens is not None
    assert row.cu_seqlens.tolist() == [0, 6, 10]
    assert row.targets.tolist() == [8, 5, 4, 7, 8]
    assert row.target_index.tolist() == [0, 3, 4, 7, 8]
    assert (row.max_seqlen, row.n_tokens) == (6, 10)


def test_packed_and_padded_rows_predict_the_same(tmp_path: Path) -> None:
    dataset = random_dataset(tmp_path / "p", 20, vocab=50, longest=17)
    chosen = [3, 9, 0, 15]
    packed, padded = packed_row(dataset, chosen), padded_row(dataset, chosen, pad_id=49)
    assert padded.targets.tolist() == packed.targets.tolist()
    seen_packed = packed.input_ids.reshape(-1)[packed.target_index]
    seen_padded = padded.input_ids.reshape(-1)[padded.target_index]
    assert seen_packed.tolist() == seen_padded.tolist()
    assert padded.attention_mask is not None
    assert int(padded.attention_mask.sum()) == packed.n_tokens == padded.n_tokens
    assert (
        packed.position_ids.reshape(-1)[packed.target_index] == padded.position_ids.reshape(-1)[padded.target_index]
    ).all()


@pytest.mark.parametrize("damage", ["cut", "missing", "version", "manifest", "offsets", "header"])
def test_a_damaged_folder_is_refused(damage: str, tmp_path: Path) -> None:
    folder = write_prepared(tmp_path / "p", SAMPLES)
    shard, manifest = folder / "shard-00000.safetensors", folder / "manifest.json"
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "missing":
        shard.unlink()
    elif damage == "version":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 99}))
    elif damage == "manifest":
        manifest.write_text("{")
    elif damage == "offsets":
        content = bytearray(shard.read_bytes())
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        at = 8 + int.from_bytes(content[:8], "little") + header["sample_offsets"]["data_offsets"][0]
        content[at + 8 : at + 16] = np.int64(10**9).tobytes()
        shard.write_bytes(bytes(content))
    else:
        content = bytearray(shard.read_bytes())
        content[9] ^= 0xFF
        shard.write_bytes(bytes(content))
    with pytest.raises(ArtifactError) as caught:
        open_prepared(folder)
    assert str(folder) in str(caught.value)
    assert caught.value.hint


def test_a_folder_that_is_something_else(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a prepared dataset"):
        open_prepared(tmp_path)
