"""The Python front of plans: settings to options, and what is worked out from a finished plan."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qlora_fast
from prepared import random_dataset
from qlora_fast.config import of
from qlora_fast.data.plan import PlanOptions, epoch_plan, longest_row_tokens, pack, row_tokens, split, update_samples
from qlora_fast.errors import ConfigError

PACKINGS = ("exact", "dense", "bucketed", "none")
LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(
    lengths=LENGTHS,
    packing=st.sampled_from(PACKINGS),
    update=st.integers(1, 9),
    batch=st.integers(1, 4),
    world=st.integers(1, 3),
    epoch=st.integers(0, 3),
    data=st.data(),
)
def test_rows_and_updates_are_what_counting_by_hand_gives(
    lengths: list[int], packing: str, update: int, batch: int, world: int, epoch: int, data: st.DataObject
) -> None:
    supervised = [data.draw(st.integers(0, length)) for length in lengths]
    options = PlanOptions(packing, update, batch, 80, world, 5)
    plan = epoch_plan(np.array(lengths), np.array(supervised), options, epoch)
    assert sorted(plan.sample_ids.tolist()) == list(range(len(lengths)))
    rows = [row.tolist() for row in plan.rows()]
    sizes = [[lengths[i] for i in row] for row in rows]
    packed = packing in ("exact", "dense")
    assert options.packed == packed
    expected = [sum(size) if packed else max(size, default=0) * len(size) for size in sizes]
    found = row_tokens(plan, np.array(lengths, np.uint32), packed)
    assert found.dtype == np.int64
    assert found.tolist() == expected
    assert longest_row_tokens(plan, np.array(lengths, np.uint32), packed) == max(expected)
    if packed:
        assert max(expected) <= 80
    else:
        assert max(map(len, rows)) <= batch
    seen: list[int] = []
    for k in range(len(plan.supervised)):
        own = update_samples(plan, k).tolist()
        first, last = plan.update_offsets[k], plan.update_offsets[k + 1]
        assert own == [i for row in rows[first:last] for i in row]
        assert (last - first) % world == 0
        assert plan.tokens[k] == sum(lengths[i] for i in own)
        assert plan.supervised[k] == sum(supervised[i] for i in own)
        assert len(own) <= update or packing == "dense"
        # Dense counts rows where the others count samples.
        assert packing != "dense" or sum(bool(row) for row in rows[first:last]) <= update
        seen += own
    assert seen == plan.sample_ids.tolist()


def test_a_row_of_pads_has_no_tokens() -> None:
    plan = epoch_plan(np.array([9, 4, 7]), np.array([1, 1, 1]), PlanOptions("none", 3, 1, 80, 2, 0))
    tokens = row_tokens(plan, np.array([9, 4, 7], np.uint32), packed=False).tolist()
    assert sorted(tokens) == [0, 4, 7, 9]
    assert tokens[-1] == 0


def test_the_options_are_those_of_the_config() -> None:
    config = of(
        packing="dense", per_device_train_batch_size=3, gradient_accumulation_steps=5, max_tokens_per_row=999,
        cutoff_len=99, world_size=2, seed=7,
    )  # fmt: skip
    assert PlanOptions.of(config) == PlanOptions("dense", 30, 3, 999, 2, 7)
    assert PlanOptions.of(config, world_size=1) == PlanOptions("dense", 15, 3, 999, 1, 7)


def test_each_setting_of_a_plan_matters() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 64).astype(np.uint32)
    given = {
        "packing": "none", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "cutoff_len": 50,
        "max_tokens_per_row": 200, "world_size": 1, "seed": 1,
    }  # fmt: skip
    base = qlora_fast.plan(lengths, **given)
    digests = {base.digest}
    changes = {
        "packing": "exact",
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "world_size": 3,
        "seed": 2,
    }
    for name, value in changes.items():
        digests.add(qlora_fast.plan(lengths, **{**given, name: value}).digest)
    digests.add(qlora_fast.plan(lengths, **given, epoch=1).digest)
    digests.add(qlora_fast.plan(lengths, **{**given, "packing": "exact", "max_tokens_per_row": 100}).digest)
    assert len(digests) == 2 + len(changes) + 1
    assert qlora_fast.plan(lengths.tolist(), **given).digest == base.digest


def test_bare_lengths_are_supervised_entirely_and_a_dataset_has_its_own(
    tmp_path: Path,
) -> None:
    bare = qlora_fast.plan([30, 50, 20, 40], per_device_train_batch_size=2, gradient_accumulation_steps=1)
    assert bare.supervised.tolist() == bare.tokens.tolist()
    some = qlora_fast.plan([30, 50], [1, 2], per_device_train_batch_size=2, gradient_accumulation_steps=1)
    assert some.supervised.tolist() == [3]
    data = random_dataset(tmp_path / "prepared", 9, vocab=50, longest=30)
    own = qlora_fast.plan(data, seed=3, epoch=2)
    assert own.digest == epoch_plan(data.lengths, data.supervised, PlanOptions.of(of(seed=3)), 2).digest
    assert own.supervised.sum() == data.supervised.sum() != data.lengths.sum()
    first = epoch_plan(data.lengths, data.supervised, PlanOptions.of(of(seed=3)))
    assert first.digest == qlora_fast.plan(data, seed=3, epoch=0).digest
    with pytest.raises(ConfigError):
        qlora_fast.plan([3], packing="loose")


@given(lengths=LENGTHS, capacity=st.integers(60, 200))
def test_packed_rows_hold_every_sample_once(lengths: list[int], capacity: int) -> None:
    ids, offsets = pack(np.array(lengths, np.uint32), capacity)
    assert sorted(ids.tolist()) == list(range(len(lengths)))
    for first, last in pairwise(offsets.tolist()):
        assert 0 < sum(lengths[i] for i in ids[first:last]) <= capacity


@pytest.mark.parametrize(("size", "held_out"), [(0.25, 3), (0.01, 1), (4, 4), (0, 0)])
def test_a_split_is_a_share_or_a_count(size: float, held_out: int) -> None:
    train, evals = split(11, size, 3)
    assert len(evals) == held_out
    assert sorted([*train.tolist(), *evals.tolist()]) == list(range(11))
    again = split(11, size, 3)
    assert train.tolist() == again[0].tolist()
    assert size == 0 or split(11, size, 4)[1].tolist() != evals.tolist()
