"""The structure of the Rust code, read from its files: no two modules need each other, at any depth.

A module is a file; a folder's own file is its ``mod.rs``. A name that a folder re-exports counts for the file that
defines it, so a re-export is no dependency of its own. Unit tests do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from paths import ROOT

CRATES = ("core", "python")

ModulePath = tuple[str, ...]
Graph = dict[ModulePath, set[ModulePath]]

_USE = re.compile(r"\buse\s+([^;]+);")
_DEFINES = re.compile(r"\b(?:struct|enum|union|trait|fn|type|const|static|macro_rules!)\s+(?:mut\s+)?(\w+)")
_PATH = re.compile(r"(?<![\w:.])\w+(?:::\w+)+")
_NO_CODE = re.compile(
    r"""//[^\n]*|\br(?P<hashes>#*)"[\s\S]*?"(?P=hashes)|"(?:[^"\\]|\\[\s\S])*"|'(?:[^'\\]|\\.[^']*)'|\bpub\(in [\w:]+\)"""
)


@dataclass
class Module:
    """What one file defines and which paths it names, relative to the root of its crate."""

    path: ModulePath
    defines: set[str]
    uses: dict[str, ModulePath] = field(default_factory=dict)
    names: list[ModulePath] = field(default_factory=list)


def _expanded(tree: str) -> Iterator[list[str]]:
    """``a::{b, c::{self, d}}`` as the paths a::b, a::c, a::c::d, an alias behind `` as `` kept in the last word."""
    tree = tree.strip()
    head, brace, rest = tree.partition("{")
    if not brace:
        yield [word.strip() for word in tree.split("::")]
        return
    depth, part, parts = 0, "", []
    for character in rest[: rest.rindex("}")]:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    before = [word for word in head.strip().split("::") if word]
    for branch in filter(str.strip, [*parts, part]):
        for path in _expanded(branch):
            yield before + ([] if path == ["self"] else path)


def _absolute(words: list[str], module: ModulePath, modules: set[ModulePath]) -> ModulePath | None:
    """A path from the root of the crate; None for one of another crate."""
    if words[0] == "crate":
        return tuple(words[1:])
    if words[0] in ("super", "self"):
        base = module
        while words and words[0] in ("super", "self"):
            base = base[:-1] if words[0] == "super" else base
            words = words[1:]
        return (*base, *words)
    return (*module, *words) if (*module, words[0]) in modules else None


def read(source: str, path: ModulePath, modules: set[ModulePath]) -> Module:
    """One file of Rust: its definitions, and every path in it that stays in the crate."""
    code = _NO_CODE.sub(" ", re.split(r"#\[cfg\(test\)\]\s*(?:pub(?:\([^)]*\))?\s+)?mod\s", source)[0])
    module = Module(path, set(_DEFINES.findall(code)))
    re_exported: set[str] = set()
    for found in _USE.finditer(code):
        public = code[: found.start()].rstrip().endswith(("pub", ")"))
        for words in _expanded(found.group(1)):
            *most, last = words
            target, _, alias = last.partition(" as ")
            absolute = _absolute([*most, target.strip()], path, modules)
            if absolute is not None:
                module.uses[alias.strip() or absolute[-1]] = absolute
                if public:
                    re_exported.add(alias.strip() or absolute[-1])
    body = _USE.sub(" ", code)
    for name, target in module.uses.items():
        needed = name not in re_exported or re.search(rf"(?<![\w:]){name}\b", body)
        if needed and target not in modules:
            module.names.append(target)
    for found in _PATH.finditer(body):
        words = found.group().split("::")
        if words[0] in module.uses:
            module.names.append((*module.uses[words[0]], *words[1:]))
        elif (absolute := _absolute(words, path, modules)) is not None:
            module.names.append(absolute)
    return module


def _defining(path: ModulePath, modules: dict[ModulePath, Module], depth: int = 0) -> ModulePath:
    """The module in which the thing at ``path`` is written, through re-exports."""
    at: ModulePath = ()
    for i, word in enumerate(path):
        if (*at, word) in modules:
            at = (*at, word)
            continue
        module = modules[at]
        if word not in module.defines and word in module.uses and depth < 8:
            return _defining((*module.uses[word], *path[i + 1 :]), modules, depth + 1)
        break
    return at


def dependencies(files: dict[ModulePath, str]) -> Graph:
    """Which module names things of which others."""
    modules = {path: read(source, path, set(files)) for path, source in files.items()}
    return {
        path: {target for name in module.names if (target := _defining(name, modules)) != path and target != ()}
        for path, module in modules.items()
    }


def _level(graph: Graph, folder: ModulePath) -> dict[str, set[str]]:
    """The graph of what lies directly in ``folder``, with ``mod`` for the folder's own file."""
    here = len(folder)
    edges: dict[str, set[str]] = {}
    for path, targets in graph.items():
        if path[:here] == folder:
            own = path[here] if len(path) > here else "mod"
            found = edges.setdefault(own, set())
            for target in targets:
                if target[:here] == folder:
                    found.add(target[here] if len(target) > here else "mod")
    return {name: targets - {name} for name, targets in edges.items()}


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected sets with more than one member."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for target in edges.get(todo.pop(), set()) - seen:
                seen.add(target)
                todo.append(target)
        return seen

    reach = {name: reached(name) for name in edges}
    sets = {tuple(sorted(b for b in reach[a] if a in reach.get(b, set()))) for a in edges if a in reach[a]}
    return [list(members) for members in sorted(sets)]


def crate(name: str) -> dict[ModulePath, str]:
    """The files of one of the project's crates by the paths of their modules."""
    source = ROOT / "rust" / name / "src"
    files: dict[ModulePath, str] = {}
    for file in sorted(source.rglob("*.rs")):
        path = file.relative_to(source).with_suffix("").parts
        files[() if path == ("lib",) else path[:-1] if path[-1] == "mod" else path] = file.read_text(encoding="utf-8")
    return files


@pytest.mark.parametrize("name", CRATES)
def test_no_two_modules_need_each_other(name: str) -> None:
    graph = dependencies(crate(name))
    folders = {path[:i] for path in graph for i in range(len(path) + 1)}
    found = {"/".join(folder) or name: cycles(_level(graph, folder)) for folder in folders}
    assert not {folder: sets for folder, sets in found.items() if sets}


def test_the_core_is_read_as_it_is() -> None:
    """The graph is not empty by mistake: a few arrows that the data path cannot do without."""
    graph = dependencies(crate("core"))
    assert ("record", "raw") in graph[("record",)], "a name of a submodule"
    assert ("pack", "error") in graph[("pack", "mix")], "a name through `super`"
    assert ("record", "chunk") in graph[("prepare", "rows")], "a name through a re-export"
    assert ("tokenizer", "native", "line") in graph[("tokenizer", "native", "cpu", "x86")]
    lonely = {path for path, targets in graph.items() if not targets and len(path) == 1}
    assert lonely <= {("dataset",), ("file_state",), ("guarded",), ("reasons",), ("stats",)}, lonely


def test_a_cycle_is_found_at_any_depth() -> None:
    files: dict[ModulePath, str] = {
        (): "pub mod a;\npub mod b;",
        ("a",): "mod low;\nmod high;\npub use low::Low;\nuse crate::b::{self, Other as Renamed};",
        ("a", "low"): "use super::high::{self, deep::{Thing, self}};\npub struct Low;\nfn f() { high::g(); }",
        ("a", "high"): "pub(super) fn g() { let _ = super::Low; } // crate::b::nothing",
        ("b",): "pub struct Other;\n#[cfg(test)]\nmod tests { use crate::a::Low; }",
    }
    graph = dependencies(files)
    assert graph[("a", "low")] == {("a", "high")}
    assert graph[("a", "high")] == {("a", "low")}, "through the re-export"
    assert graph[("b",)] == set(), "tests do not count"
    assert cycles(_level(graph, ("a",))) == [["high", "low"]]
    assert cycles(_level(graph, ())) == []
    assert graph[("a",)] == {("b",)}
    files[("b",)] = "pub struct Other;\nfn f() -> crate::a::Low { Default::default() }"
    assert cycles(_level(dependencies(files), ())) == [["a", "b"]], "between folders, by way of a file in one"


@pytest.mark.parametrize(
    ("folder", "forbidden", "why"),
    [
        ("pack", {"record", "template", "tokenizer", "encode", "truncate", "dataset", "conversation"}, "lengths only"),
        ("record", {"tokenizer", "template", "encode", "truncate", "dataset"}, "bytes and conversations only"),
        ("tokenizer", {"record", "conversation", "template", "encode"}, "text and ids only"),
    ],
)
def test_what_a_stage_never_sees(folder: str, forbidden: set[str], why: str) -> None:
    graph = dependencies(crate("core"))
    seen = {target[0] for path, targets in graph.items() if path[0:1] == (folder,) for target in targets}
    assert seen
    assert not seen & forbidden, why


def test_python_is_known_to_the_binding_only() -> None:
    core = (ROOT / "rust/core/Cargo.toml").read_text(encoding="utf-8")
    assert not re.search(r"^(pyo3|numpy)", core, re.MULTILINE)
    binding = (ROOT / "rust/python/Cargo.toml").read_text(encoding="utf-8")
    assert re.search(r"^pyo3", binding, re.MULTILINE)


def test_unsafe_code_stands_in_one_audited_module() -> None:
    assert 'unsafe_code = "deny"' in (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    found = {
        str(p.relative_to(ROOT / "rust"))
        for p in (ROOT / "rust").rglob("*.rs")
        if "allow(unsafe_code" in p.read_text(encoding="utf-8")
    }
    assert found == {f"core/src/tokenizer/native/cpu/{file}.rs" for file in ("mod", "x86")}
