"""Rows are filled up to a few sizes with what changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prepared import random_dataset, write_prepared
from qlora_fast.data.batch import packed_row, padded_row
from qlora_fast.data.dataset import PreparedDataset, open_prepared
from qlora_fast.data.plan import PlanOptions, epoch_plan
from qlora_fast.data.rung import DEAD, Rung, Size, capacity, fitted, ladder, row_sizes, size_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return random_dataset(tmp_path_factory.mktemp("rung") / "p", 120, vocab=90, longest=70)


@pytest.mark.parametrize("tokens", [1, 127, 128, 129, 1000, 4096, 4097, 8000, 60_001])
def test_a_capacity_is_the_next_of_a_few_and_wastes_a_sixteenth_or_127_tokens_at_most(tokens: int) -> None:
    found = capacity(tokens)
    assert tokens <= found <= tokens + max(127, tokens // 16)
    assert capacity(found) == found
    assert len({capacity(n) for n in range(4096, 8193)}) <= 33


def test_what_the_docs_say_of_the_sizes_of_rungs() -> None:
    for octave in (2048, 4096, 8192, 16_384):
        assert len({capacity(n) for n in range(octave + 1, 2 * octave + 1)}) == 16
    assert max(capacity(n) - n for n in range(1, 2049)) == 127
    assert max((capacity(n) - n) / capacity(n) for n in range(2049, 16_385)) < 1 / 16


@pytest.mark.parametrize("packing", ["exact", "dense"])
@pytest.mark.parametrize("world", [1, 3])
def test_a_ladder_holds_every_row_of_the_plan(data: PreparedDataset, packing: str, world: int) -> None:
    lengths, supervised = data.lengths, data.supervised
    plan = epoch_plan(lengths, supervised, PlanOptions(packing, 9, 3, 300, world, 0))
    rungs = ladder(row_sizes(plan, lengths, supervised), int(lengths.max()))
    rows = [packed_row(data, ids) for j in range(len(plan.row_offsets) - 1) if len(ids := plan.row(j))]
    assert [size_of(row) for row in rows] == list(row_sizes(plan, lengths, supervised))
    for row in rows:
        rung = rungs[capacity(row.input_ids.size)]
        assert rung.holds(row)
        full = fitted(row, rung)
        assert full.input_ids.shape == full.position_ids.shape == (1, rung.tokens)
        assert full.targets.shape == full.target_index.shape == (rung.supervised,)
        assert full.cu_seqlens is not None
        assert full.cu_seqlens.shape == (rung.samples + 1,)
        assert full.cu_seqlens.dtype == np.int32


def test_what_is_added_is_dead(data: PreparedDataset) -> None:
    row = packed_row(data, range(5))
    tokens, learned, longest = row.input_ids.size, len(row.targets), int(data.lengths.max())
    full = fitted(row, Rung(tokens + 3 * longest - 5, 5 + 3 + 2, learned + 40, longest))
    assert full.cu_seqlens is not None
    assert row.cu_seqlens is not None
    sizes = np.diff(full.cu_seqlens)
    assert full.cu_seqlens[: len(row.cu_seqlens)].tolist() == row.cu_seqlens.tolist()
    assert sizes[5:].tolist() == [longest, longest, longest - 5, 0, 0]
    assert np.array_equal(full.input_ids[0, :tokens], row.input_ids[0])
    for first, last in zip(full.cu_seqlens, full.cu_seqlens[1:], strict=False):
        assert full.position_ids[0, first:last].tolist() == list(range(last - first))
    assert full.targets[:learned].tolist() == row.targets.tolist()
    assert (full.targets[learned:] == DEAD).all()
    assert full.target_index[:learned].tolist() == row.target_index.tolist()
    assert len(np.unique(full.target_index)) == learned + 40, "no position twice: gradients are written, not added up"
    assert full.sample_ids is row.sample_ids
    assert full.n_tokens == row.n_tokens


@pytest.mark.parametrize(
    ("tokens", "samples", "supervised", "longest"), [(-1, 0, 0, 0), (0, -1, 0, 0), (0, 0, -1, 0), (0, 0, 0, -1)]
)
def test_what_is_too_small_by_one_does_not_hold_a_row(
    data: PreparedDataset, tokens: int, samples: int, supervised: int, longest: int
) -> None:
    row = packed_row(data, range(5))
    size = size_of(row)
    rung = Rung(size.tokens + tokens, 5 + samples, size.supervised + supervised, row.max_seqlen + longest)
    assert not rung.holds(row)
    with pytest.raises(ValueError, match="does not hold"):
        fitted(row, rung)


def test_rows_at_the_edges(tmp_path: Path) -> None:
    """Every token but the first supervised, none at all, samples of one token."""
    data = open_prepared(write_prepared(tmp_path / "p", [([1, 2, 3], [(1, 3)]), ([4], []), ([5, 6], [])]))
    for ids in ([0], [1], [2], [0, 1, 2], [1, 1, 1]):
        row = packed_row(data, ids)
        rung = ladder([size_of(row)], row.max_seqlen)[128]
        full = fitted(row, rung)
        assert full.targets[len(row.targets) :].tolist() == [DEAD] * (rung.supervised - len(row.targets))
    assert not Rung(128, 60, 64, 3).holds(padded_row(data, [0, 1]))
    assert ladder([Size(128, 1, 127)], 128)[128].supervised == 128
