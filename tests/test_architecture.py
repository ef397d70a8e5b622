"""The borders of the Python package, derived from its folders: who imports whom, who prints, what stays light.

A room is a folder of ``python/qlora_fast``. Its ``__init__`` names what it may import and whether it needs torch.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from paths import ROOT

PACKAGE = ROOT / "python" / "qlora_fast"
ROOMS = sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py"))
MODULES = sorted(PACKAGE.rglob("*.py"))
FACE = {"__init__", "__main__", "errors", "atomic_io", "plots", "ray"}
"""The modules beside the rooms: the face of the package and what every room uses."""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[str]:
    """The rooms and top modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            parts = (node.module or "").split(".")
            if parts[0] == "qlora_fast":
                yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("qlora_fast."))


@cache
def arrows() -> dict[str, set[str]]:
    """What each room and top module imports."""
    found: dict[str, set[str]] = {}
    for path in MODULES:
        found.setdefault(room_of(path), set()).update(set(imported(path)) - {room_of(path)})
    return found


def door(room: str) -> str:
    return ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))) or ""


def allowed(room: str) -> set[str]:
    listed = re.search(r"May import: ([^.]+)\.", door(room))
    assert listed, f"{room}/__init__.py does not say what the room may import"
    if listed[1] == "every room":
        return {*ROOMS, *FACE, "_core"}
    return {name.strip() for name in listed[1].split(",")}


def floors() -> list[list[str]]:
    """Rooms by the longest chain of imports below them, lowest first; fails when imports run in a circle."""
    height: dict[str, int] = {}

    def climb(room: str, above: tuple[str, ...] = ()) -> int:
        assert room not in above, " imports ".join([*above, room])
        if room not in height:
            below = [name for name in arrows()[room] if name in ROOMS]
            height[room] = 1 + max((climb(name, (*above, room)) for name in below), default=-1)
        return height[room]

    for room in ROOMS:
        climb(room)
    return [[r for r in ROOMS if height[r] == floor] for floor in range(max(height.values()) + 1)]


def test_the_top_holds_only_rooms_and_the_face_of_the_package() -> None:
    assert {p.stem for p in PACKAGE.glob("*.py")} == FACE


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_its_door_says(room: str) -> None:
    assert "Begin with" in door(room), "the door says where to begin reading"
    assert arrows()[room] <= allowed(room)
    if room != "cli":
        assert allowed(room) <= arrows()[room], "the door lists what is not imported"


def test_the_core_is_behind_the_data_room() -> None:
    """Everything else uses data's types: a change of the binding shows in one room."""
    users = {str(p.relative_to(PACKAGE)) for p in MODULES if "_core" in set(imported(p))}
    assert {Path(name).parts[0] for name in users} <= {"data", "doctor", "config", "ray.py", "__init__.py"}
    assert {name for name in users if name.startswith("config/")} <= {"config/explain.py"}


def test_the_names_of_a_run_are_written_once() -> None:
    from qlora_fast.runs import layout

    names = {value for key, value in vars(layout).items() if key.isupper() and isinstance(value, str)}
    words = names - {layout.BEST, layout.LAST, layout.EVALUATIONS, layout.TENSORBOARD, layout.MODEL_CARD}
    for path in MODULES:
        if path.name not in ("layout.py", "untrusted.py", "manifest.py", "places.py"):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            found = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)} & words
            assert not found, f"{path} spells {found} itself"


def test_the_picture_in_the_docs_is_the_code() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = re.search(r"```rooms\n(.*?)```", text, re.DOTALL)
    assert picture
    assert [line.split() for line in picture[1].strip().splitlines()] == floors()[::-1]


def test_tests_mirror_the_rooms() -> None:
    support = {"cuda", "nullgpu", "reliability", "snapshots", "__pycache__"}
    folders = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir()} - support
    assert folders <= set(ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
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
    "plan": "import qlora_fast.cli.plan, qlora_fast.train.schedule",
    "memory": "import qlora_fast.cli.memory, qlora_fast.model.memory_estimate, qlora_fast.model.shapes",
    **{name: f"import qlora_fast.cli.{name}" for name in ("prep", "inspect", "template", "compare", "sweep")},
    **{
        room: "import " + ", ".join(f"qlora_fast.{room}.{p.stem}" for p in (PACKAGE / room).glob("*.py"))
        for room in ROOMS
        if "No torch at import" in door(room)
    },
}


@pytest.mark.parametrize("what", LIGHT)
def test_light_commands_never_import_torch(what: str) -> None:
    code = (
        LIGHT[what]
        + "\nimport sys; heavy={'torch','transformers','peft','matplotlib'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
