"""The face of the Rust core: documented in the module and in the stub alike, and plans that can be walked row by row."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import qlora_fast
from qlora_fast import _core

STUB = Path(qlora_fast.__file__).parent / "_core.pyi"


def stub_docs() -> Iterator[tuple[str, str]]:
    """Name and docstring of every public function, class, method and property of the stub."""
    for node in ast.parse(STUB.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if any(isinstance(d, ast.Name) and d.id == "type_check_only" for d in node.decorator_list):
                continue
            yield node.name, ast.get_docstring(node) or ""
            for member in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                    yield f"{node.name}.{member.name}", ast.get_docstring(member) or ""


def built_doc(name: str) -> str:
    thing: object = _core
    for part in name.split("."):
        thing = getattr(thing, part)
    return inspect.cleandoc(thing.__doc__ or "")


@pytest.mark.parametrize(("name", "doc"), list(stub_docs()), ids=lambda value: str(value).split("\n")[0][:40])
def test_everything_is_documented_once(name: str, doc: str) -> None:
    assert doc, f"{name} has no docstring in _core.pyi"
    assert doc == built_doc(name), f"{name}: _core.pyi and the binding differ"


def plan(samples: int = 50, world_size: int = 1) -> tuple[np.ndarray, _core.EpochPlan]:
    lengths = np.random.default_rng(0).integers(1, 90, samples, dtype=np.uint32)
    return lengths, _core.plan_epoch(
        lengths,
        lengths,
        packing="exact",
        samples_per_update=8,
        micro_batch_size=2,
        max_tokens_per_row=100,
        rows_per_update=4,
        world_size=world_size,
        seed=1,
        epoch=0,
    )


@pytest.mark.parametrize("world_size", [1, 3])
def test_the_rows_of_a_plan_are_views_of_its_samples(world_size: int) -> None:
    _, made = plan(world_size=world_size)
    rows = list(made.rows())
    assert len(rows) == len(made) == len(made.row_offsets) - 1
    for index, row in enumerate(rows):
        expected = made.sample_ids[made.row_offsets[index] : made.row_offsets[index + 1]]
        assert row.dtype == np.int64
        assert np.shares_memory(row, made.sample_ids) or not row.size
        np.testing.assert_array_equal(row, expected)
        np.testing.assert_array_equal(made.row(index), expected)
        np.testing.assert_array_equal(made[index - len(made)], expected)
    assert sorted(np.concatenate(rows)) == list(range(50))
    if world_size == 3:
        assert any(not row.size for row in rows), "empty rows fill up an optimizer step"


@pytest.mark.parametrize("index", [10_000, -10_000, 2**62, -(2**63)])
def test_a_row_that_a_plan_does_not_have_is_an_error(index: int) -> None:
    _, made = plan()
    with pytest.raises(IndexError, match=f"has {len(made)} rows"):
        made.row(index)
    for beyond in (len(made), -len(made) - 1):
        with pytest.raises(IndexError):
            made[beyond]
    assert plan(0)[1].row_offsets.tolist() == [0]
    assert list(plan(0)[1].rows()) == []


def test_a_plan_shows_its_size() -> None:
    _, made = plan()
    shown = f"EpochPlan(50 samples, {len(made)} rows, {len(made.tokens)} optimizer steps, digest {made.digest[:12]}…)"
    assert repr(made) == shown


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(qlora_fast.QloraFastError, match="unknown engine `quick`: use auto"):
        _core.Tokenizer(tmp_path / "tokenizer.json", engine="quick")


def test_compiled_tokenizers_are_kept_where_the_caller_says_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oracle import TOKENIZER

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "environment"))
    assert _core.Tokenizer(TOKENIZER).engine == "native"
    assert not list(tmp_path.iterdir()), "the core does not read the environment"
    _core.ChatEncoder(TOKENIZER, "chatml", eos_token="<|im_end|>", cache=tmp_path / "given")
    assert [path.parent for path in (tmp_path / "given").rglob("*.*")] == [tmp_path / "given" / "tokenizers"]
