"""The borders of docs/architecture.md, as assertions: who may import whom, who may print, what stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "python" / "qlora_fast"
CORE = ROOT / "rust" / "core" / "src"

# A module may import from its own layer and the layers before it.
PYTHON_LAYERS = [
    {"errors", "_core", "reasons"},
    {"config"},
    {
        "durable",
        "gguf_tokenizer",
        "hub",
        "templates",
        "ranks",
        "data",
        "schedule",
        "planning",
        "loss",
        "attention",
        "lora",
        "pissa",
    },
    {"base_model", "preparation", "stats", "model", "adapter", "forward", "optim", "optim_bnb", "loss_scale", "signals"}
    | {"samples", "trackers", "footprint", "memory", "model_shapes", "duration"}
    | {"inputs", "dataset_info", "mixture", "rows"},
    {"evaluation", "checkpoint", "trainer", "generate", "plots", "probe"}
    | {"sweep", "runs", "comparison", "update", "tensor_files", "serving"},
    {"outputs", "doctor", "parts", "resume"}
    | {"experiments", "overlay", "merge", "merge_check"}
    | {"prep_report", "length_plot", "export", "ray", "template_check"},
    {"run"},
    {"scoring", "rehearsal", "merged_folder", "chat"},
    {"cli"},
]
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


def python_modules() -> list[Path]:
    return sorted(
        p for p in PACKAGE.rglob("*.py") if p.name not in ("__init__.py", "__main__.py") or p.parent != PACKAGE
    )


def top_name(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", python_modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_python_imports_go_down_only(path: Path) -> None:
    own = top_name(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "qlora_fast":
            parts = node.module.split(".")
            names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name.split(".")[1] for a in node.names if a.name.startswith("qlora_fast.")]
        for name in names:
            if name != own:
                assert layer_of(name, PYTHON_LAYERS) <= layer_of(own, PYTHON_LAYERS), f"{own} imports {name}"


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


@pytest.mark.parametrize("path", python_modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_console_prints_and_nothing_pickles(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            assert path.name == "console.py", f"{path} prints"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {m.split(".")[0] for m in modules} & {"pickle", "dill", "cloudpickle"}, path
            if "yaml" in {m.split(".")[0] for m in modules}:
                assert path.parent.name == "config", f"{path} reads YAML"
        if isinstance(node, ast.keyword) and node.arg in ("shell", "trust_remote_code"):
            assert not (isinstance(node.value, ast.Constant) and node.value.value is True), path


LIGHT = {
    "import": "import qlora_fast",
    "help": "import sys; sys.argv=['qlora-fast','--help']\nfrom qlora_fast.cli import cli\ncli.main(standalone_mode=False)",
    "prep": "import qlora_fast.cli.prep, qlora_fast.preparation, qlora_fast.data",
    "plan": "import qlora_fast.cli.plan, qlora_fast.planning, qlora_fast.schedule",
    "memory": "import qlora_fast.cli.memory, qlora_fast.memory, qlora_fast.model_shapes",
    "inspect": "import qlora_fast.cli.inspect",
    "template": "import qlora_fast.cli.template, qlora_fast.template_check",
    "compare": "import qlora_fast.cli.compare, qlora_fast.experiments, qlora_fast.runs, qlora_fast.overlay",
    "sweep": "import qlora_fast.cli.sweep, qlora_fast.sweep",
}


@pytest.mark.parametrize("what", LIGHT)
def test_light_commands_never_import_torch(what: str) -> None:
    code = (
        LIGHT[what]
        + "\nimport sys; heavy={'torch','transformers','peft','matplotlib'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
