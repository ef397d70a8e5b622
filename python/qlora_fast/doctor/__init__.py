"""What this machine and its packages can do, and which fast paths work here: findings for ``qlora-fast doctor``.

May import: atomic_io, config, hub, model, runs, errors, _core. Begin with :mod:`~qlora_fast.doctor.finding`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from qlora_fast.doctor import fast_paths, machine, packages
from qlora_fast.doctor.artifacts import examine_artifact
from qlora_fast.doctor.finding import Finding, State
from qlora_fast.errors import first_line

__all__ = ["GROUPS", "Finding", "State", "examine", "examine_artifact", "findings"]

GROUPS: dict[str, tuple[Callable[[], Iterable[Finding]], ...]] = {
    "machine": (machine.python, machine.system, machine.cpu, machine.memory, machine.disks, machine.gpus),
    "packages": (packages.core, packages.required, packages.optional),
    "fast paths": (
        fast_paths.numbers,
        fast_paths.attention,
        fast_paths.kernels,
        fast_paths.products,
        fast_paths.compiling,
        fast_paths.quantization,
        fast_paths.tokenizer,
        fast_paths.threads,
    ),
}


def findings() -> Iterator[tuple[str, Finding]]:
    """All findings, each with its group, as they are found: some take seconds. A check that fails is itself a finding;
    nothing here raises."""
    for group, checks in GROUPS.items():
        for check in checks:
            for finding in _guarded(check):
                yield group, finding


def examine() -> dict[str, list[Finding]]:
    """:func:`findings` by group."""
    groups: dict[str, list[Finding]] = {group: [] for group in GROUPS}
    for group, finding in findings():
        groups[group].append(finding)
    return groups


def _guarded(check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(check())
    # A broken library may raise anything at all; that is what this program is there to tell.
    except Exception as error:
        reason = first_line(error)
        name = check.__name__.replace("_", " ")
        state: State = "broken" if isinstance(error, ImportError) else "warning"
        found.append(Finding(name, state, f"could not be looked at: {type(error).__name__}: {reason}"))
    return found
