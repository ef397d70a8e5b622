"""Where a base can lie, and what fits: published shapes on the cards that people have."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from cli_run import ROOT, cli
from qlora_fast.config import Config
from qlora_fast.model.memory_estimate import Memory, Method, estimate
from qlora_fast.model.shapes import LADDER, SHAPES
from qlora_fast.model.sharded_memory import (
    GB,
    base_bytes,
    fits,
    layer_bytes,
    matrix_bytes,
    on_each,
    placements,
    planned,
    sharing,
)

BASE = ("embedding", "linear", "constants")


def method(bits: int | None = 4) -> Method:
    return Method(bits=bits, checkpointing=True)


@pytest.mark.parametrize(
    ("model", "bits", "devices", "each", "enough"),
    [
        ("qwen2.5-72b", 4, 4, 24, True),
        ("qwen2.5-72b", 4, 2, 48, True),
        ("qwen2.5-72b", 4, 2, 80, True),
        ("qwen2.5-72b", 4, 1, 48, False),
        ("qwen2.5-72b", 4, 2, 24, False),
        ("qwen2.5-72b", 8, 4, 24, False),
        ("qwen2.5-72b", 8, 2, 48, False),
        ("qwen2.5-72b", 8, 2, 80, True),
        ("qwen2.5-72b", None, 4, 24, False),
        ("qwen2.5-72b", None, 2, 48, False),
        ("qwen2.5-72b", None, 2, 80, False),
        ("qwen2.5-72b", None, 4, 80, True),
        ("qwen3-8b", None, 1, 16, False),
        ("qwen3-8b", None, 2, 16, True),
    ],
)
def test_what_fits_on_how_many_gpus(model: str, bits: int | None, devices: int, each: int, enough: bool) -> None:
    verdict = fits(SHAPES[model], method(bits), devices, each * GB)
    assert verdict.fits is enough
    assert verdict.fits == (verdict.memory.total <= each * GB)
    assert verdict.host == 0


@pytest.mark.parametrize(
    ("model", "each", "enough"),
    [("qwen3-8b", 6, True), ("qwen3-32b", 12, True), ("qwen2.5-32b", 12, True), ("qwen2.5-72b", 8, False)],
)
def test_what_fits_with_the_base_in_main_memory(model: str, each: int, enough: bool) -> None:
    shape = SHAPES[model]
    assert not fits(shape, method(), 1, each * GB).fits, "offloading would not be needed"
    verdict = fits(shape, method(), 1, each * GB, offload=True)
    assert verdict.fits is enough
    assert verdict.host == base_bytes(shape, method())
    assert [getattr(verdict.memory, part) for part in BASE] == [0, 0, 0]


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("devices", [2, 3, 64])
def test_only_the_base_is_shared(bits: int | None, devices: int) -> None:
    shape = SHAPES["qwen3-8b"]
    whole, shared = on_each(shape, method(bits)), on_each(shape, method(bits), devices)
    assert whole == estimate(shape, method(bits))
    for part in (f.name for f in fields(Memory)):
        if part in BASE:
            assert 0 <= devices * getattr(shared, part) - getattr(whole, part) < devices, "a share is rounded up"
        elif part != "gathered":
            assert getattr(shared, part) == getattr(whole, part)
    layer, matrix = layer_bytes(shape, method(bits)), matrix_bytes(shape, method(bits))
    assert shared.gathered == max(2 * layer, layer + matrix)


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("model", SHAPES)
def test_the_layers_and_the_matrices_are_the_base(model: str, bits: int | None) -> None:
    shape = SHAPES[model]
    layers = shape.layers * layer_bytes(shape, method(bits))
    matrices = matrix_bytes(shape, method(bits)) * (1 if shape.tied else 2)
    assert layers + matrices == pytest.approx(base_bytes(shape, method(bits)), abs=100_000)


@pytest.mark.parametrize(
    ("bits", "node", "world", "each", "expected", "enough"),
    [
        (4, 4, 8, 80, "off", True),
        (4, 4, 8, 24, "node", True),
        (None, 4, 16, 24, "world", True),
        (None, 4, 8, 24, "world", False),
        (4, 1, 4, 24, "world", True),
        (4, 1, 1, 24, "off", False),
    ],
)
def test_auto_takes_the_least_sharing_that_fits(
    bits: int | None, node: int, world: int, each: int, expected: str, enough: bool
) -> None:
    name, verdict = sharing(SHAPES["qwen2.5-72b"], method(bits), node, world, each * GB)
    assert (name, verdict.fits) == (expected, enough)


def test_a_planned_run_recomputes_where_the_config_leaves_that_open() -> None:
    assert planned(Config(), 2048).checkpointing
    assert planned(Config(gradient_checkpointing="true"), 2048).checkpointing
    assert not planned(Config(gradient_checkpointing="false"), 2048).checkpointing
    assert planned(Config(), 512, width=4).width == 4


def test_the_commands(tmp_path: Path) -> None:
    told = cli("memory", "--devices", "4", "--gpu-memory", "24", "--json", cwd=tmp_path).json
    answers = {(way["model"], way["bits"], way["base"]): way["fits"] for way in told["ways"]}
    assert {model for model, _, _ in answers} == set(LADDER)
    assert answers["qwen2.5-72b", 4, "shared by 4"] is True
    assert answers["qwen2.5-72b", None, "shared by 4"] is False
    assert told["gpu_memory"] == 24 * GB

    ladder = cli("memory", "--devices", "2", "--gpu-memory", "48", cwd=tmp_path)
    last = ladder.out.splitlines()[-1].split()
    assert last == ["qwen2.5-72b", "shared", "by", "2", "83.8", "no", "48.4", "no", "30.9", "yes"]

    run = cli("memory", ROOT / "configs/qwen3-8b-qlora.yaml", "--gpu-memory", "6", cwd=tmp_path)
    assert run.out.splitlines()[-2].split() == ["fits", "6", "GB", "no", "no", "no", "yes", "yes", "yes"]
    assert "6.07" in run.out.splitlines()[-1], "what main memory holds"
    plain = cli("memory", ROOT / "configs/qwen3-8b-qlora.yaml", "--devices", "2", "--json", cwd=tmp_path).json
    assert {way["fits"] for way in plain["ways"]} == {None}
    assert len(plain["ways"]) == len(placements(2)) * 3
