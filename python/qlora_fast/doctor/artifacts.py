"""What the program wrote, verified: each kind of folder by the module that knows it.

A kind is added as one line of :data:`KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from qlora_fast.doctor import folders, prepared
from qlora_fast.doctor.finding import Finding
from qlora_fast.errors import ArtifactError
from qlora_fast.hub import places
from qlora_fast.runs import layout

_HINT = "give a folder that `qlora-fast prep`, `train` or `merge` wrote"
Progress = Callable[[str, int, int], object]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of folder that can be verified.

    Attributes:
        name: what it is, in words.
        fits: whether a folder is of this kind.
        verify: reads all of it; every file that is not as it was written is a broken finding.
    """

    name: str
    fits: Callable[[Path], bool]
    verify: Callable[[Path, Progress | None], Iterable[Finding]]


KINDS = (
    Kind("prepared data", prepared.fits, prepared.verify),
    Kind("run", folders.is_run, folders.verify_run),
    Kind("adapter", layout.is_adapter, folders.verify_adapter),
    Kind("model", folders.is_model, folders.verify_model),
    Kind("files", folders.has_manifest, folders.verify_listed),
)
"""In this order: a finished run is an adapter as well, and a folder may lack the very file that tells its kind."""


def examine_artifact(path: Path, progress: Progress | None = None) -> dict[str, list[Finding]]:
    """Findings about a folder, by the name of its kind.

    Args:
        progress: called with (stage, bytes done, bytes in all) a few times a second.

    Raises:
        ArtifactError: the folder is of no kind that can be verified.
    """
    for kind in KINDS:
        if kind.fits(path):
            return {kind.name: list(kind.verify(path, progress))}
    if not path.is_dir():
        raise places.nothing_at(str(path), of_file=_HINT)
    inside = places.inside(path)
    raise ArtifactError(
        f"`{path}` holds nothing that can be verified, such as {', '.join(k.name for k in KINDS)}",
        hint=f"in it are {', '.join(inside[:6])}" if inside else _HINT,
    )
