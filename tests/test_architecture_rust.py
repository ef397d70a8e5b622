"""The borders of the Rust core, as assertions: who may use whom, where `unsafe` stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paths import ROOT

CORE = ROOT / "rust" / "core" / "src"

RUST_LAYERS = [
    {"error", "conversation", "threads"},
    {"record", "template", "tokenizer"},
    {"encode", "truncate"},
    {"durable", "dataset", "pack", "stats"},
    {"prepare"},
    {"review"},
]


def layer_of(name: str, layers: list[set[str]]) -> int:
    found = [i for i, layer in enumerate(layers) if name in layer]
    assert found, f"module `{name}` stands in no layer: add it to the picture"
    return found[0]


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.rs")), ids=lambda p: str(p.relative_to(CORE)))
def test_rust_imports_go_down_only(path: Path) -> None:
    own = path.relative_to(CORE).with_suffix("").parts[0]
    if own == "lib":
        return
    code = path.read_text(encoding="utf-8").split("#[cfg(test)]")[0]
    for name in re.findall(r"crate::([a-z_]+)", code):
        if (name != own and (CORE / f"{name}.rs").exists()) or (CORE / name).is_dir():
            assert layer_of(name, RUST_LAYERS) <= layer_of(own, RUST_LAYERS), f"{own} uses {name}"


def test_pack_sees_lengths_only() -> None:
    for path in (CORE / "pack").glob("*.rs"):
        assert not re.search(r"crate::(record|template|tokenizer|encode|truncate|dataset)", path.read_text())


def test_the_core_knows_nothing_of_python() -> None:
    assert not re.search(r"^(pyo3|numpy)", (ROOT / "rust/core/Cargo.toml").read_text(), re.MULTILINE)


def test_unsafe_code_stands_in_one_audited_module() -> None:
    assert 'unsafe_code = "deny"' in (ROOT / "Cargo.toml").read_text()
    found = {
        str(p.relative_to(ROOT / "rust")) for p in (ROOT / "rust").rglob("*.rs") if "allow(unsafe_code" in p.read_text()
    }
    assert found == {f"core/src/tokenizer/native/cpu/{file}.rs" for file in ("mod", "x86")}
