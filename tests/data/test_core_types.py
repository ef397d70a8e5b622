"""The stub of the core tells the truth: what is returned has the keys and types that its TypedDicts name."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracle import TOKENIZER
from paths import ROOT
from qlora_fast import _core

STUB = ast.parse((ROOT / "python" / "qlora_fast" / "_core.pyi").read_text(encoding="utf-8"))
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
SCALARS: dict[str, tuple[type, ...]] = {"int": (int,), "str": (str,), "bool": (bool,), "float": (float, int)}


def fields(name: str) -> dict[str, ast.expr]:
    """The keys of a TypedDict of the stub and their types, those of its bases first."""
    found: dict[str, ast.expr] = {}
    for base in CLASSES[name].bases:
        if isinstance(base, ast.Name) and base.id != "TypedDict":
            found |= fields(base.id)
    for node in CLASSES[name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node.annotation
    return found


def mismatches(value: Any, kind: ast.expr, at: str) -> list[str]:
    """Where a value is not of a type, as far as the types of the reports go."""
    if isinstance(kind, ast.Constant) and kind.value is None:
        return [] if value is None else [f"{at} is not None"]
    if isinstance(kind, ast.BinOp):
        sides = (mismatches(value, kind.left, at), mismatches(value, kind.right, at))
        return min(sides, key=len)
    if isinstance(kind, ast.Name):
        if kind.id == "Any":
            return []
        if kind.id in SCALARS:
            fits = isinstance(value, SCALARS[kind.id]) and (kind.id == "bool" or not isinstance(value, bool))
            return [] if fits else [f"{at} is {value!r}, not {kind.id}"]
        return wrong_keys(value, kind.id, at)
    assert isinstance(kind, ast.Subscript), ast.dump(kind)
    assert isinstance(kind.value, ast.Name)
    container = kind.value.id
    if container == "NotRequired":
        return mismatches(value, kind.slice, at)
    if container == "list":
        items = value if isinstance(value, list) else [value]
        wrong = [] if isinstance(value, list) else [f"{at} is not a list"]
        return wrong + [m for i, item in enumerate(items) for m in mismatches(item, kind.slice, f"{at}[{i}]")]
    assert isinstance(kind.slice, ast.Tuple)
    if container == "tuple":
        if not isinstance(value, tuple) or len(value) != len(kind.slice.elts):
            return [f"{at} is {value!r}"]
        return [m for v, k in zip(value, kind.slice.elts, strict=True) for m in mismatches(v, k, at)]
    assert container == "dict", container
    if not isinstance(value, dict):
        return [f"{at} is no dict"]
    return [m for k, v in value.items() for m in mismatches(v, kind.slice.elts[1], f"{at}[{k!r}]")]


def wrong_keys(value: Any, name: str, at: str = "") -> list[str]:
    known = fields(name)
    if not isinstance(value, dict):
        return [f"{at} is no dict"]
    optional = {key for key, kind in known.items() if ast.unparse(kind).startswith("NotRequired")}
    wrong = [f"{at}.{key} is not in {name}" for key in value.keys() - known.keys()]
    wrong += [f"{at}.{key} is missing" for key in known.keys() - value.keys() - optional]
    for key in known.keys() & value.keys():
        wrong += mismatches(value[key], known[key], f"{at}.{key}")
    return wrong


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Data with every kind of entry in its report: dropped rows, a duplicate, truncated rows."""
    folder = tmp_path_factory.mktemp("types")
    rows = [{"instruction": f"q {i}", "output": "word " * (i * 9), "id": i} for i in range(40)]
    text = json.dumps([*rows, rows[3], {"text": 1}, {"instruction": "q", "output": ""}])
    (folder / "data.json").write_text(text)
    options: Any = {
        "data": [{"path": str(folder / "data.json"), "dataset": "d"}],
        "tokenizer": str(TOKENIZER),
        "template": "qwen3",
        "cutoff_len": 64,
        "deduplicate": "exact",
        "out": str(folder / "out"),
    }
    return options


def test_reports_have_the_keys_of_the_stub(options: Any, tmp_path: Path) -> None:
    report = _core.prepare(options)
    assert wrong_keys(report, "Report") == []
    assert report["dropped_examples"]
    assert report["most_cut"]
    assert any("first" in row for row in report["dropped_examples"])
    assert wrong_keys(_core.read_manifest(options["out"]), "Manifest") == []
    assert wrong_keys(_core.open_prepared(options["out"]).manifest, "Manifest") == []
    share = {**options, "out": str(tmp_path / "share")}
    assert wrong_keys(_core.prepare_share(share, 1, 2), "ShareReport") == []


def test_a_damaged_shard_is_reported(options: Any) -> None:
    _core.prepare(options)
    shard = next(Path(options["out"]).glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    report = _core.prepare(options)
    assert report["remade"] == [shard.name]
    assert wrong_keys(report, "Report") == []


def test_inspected_rows_have_the_keys_of_the_stub(options: Any) -> None:
    rows = _core.inspect_rows(options, 0, list(range(43)))
    assert [m for row in rows for m in wrong_keys(row, "InspectedRow")] == []
    assert {row["dropped"] is None for row in rows} == {True, False}


def test_what_is_said_of_batching_has_the_keys_of_the_stub(options: Any) -> None:
    _core.prepare(options)
    packing: Any = {
        "packing": "exact",
        "samples_per_update": 8,
        "micro_batch_size": 4,
        "max_tokens_per_row": 64,
        "rows_per_update": 8,
        "world_size": 1,
        "seed": 1,
    }
    assert set(packing) == set(fields("PackingOptions"))
    assert wrong_keys(_core.batching_report(options["out"], packing), "BatchingReport") == []
    lengths = np.full(20, 30, np.uint32)
    fills = _core.padding(lengths, lengths, packing)
    assert [m for fill in fills for m in wrong_keys(fill, "PackingStats")] == []


@pytest.mark.parametrize("key", sorted(fields("Options")))
def test_the_core_knows_every_option_of_the_stub(key: str, options: Any) -> None:
    values: dict[str, Any] = {
        "format": "alpaca",
        "variables": {"name": "x"},
        "truncation": "drop",
        "engine": "native",
        "verify": "quick",
        "part_bytes": 1000,
        "threads": 1,
        "max_samples": 3,
    }
    value = options.get(key, values.get(key, False if "bool" in ast.unparse(fields("Options")[key]) else None))
    assert _core.fingerprint({**options, key: value})


def test_the_check_itself_finds_what_is_wrong() -> None:
    row: Any = {"file": "a", "line": 1, "row": True, "reason": 3, "more": 0}
    found = wrong_keys(row, "DroppedRow")
    assert len(found) == 3, found
    assert wrong_keys({"file": "a"}, "FirstRow") == [".row is missing"]
