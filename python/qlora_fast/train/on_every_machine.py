"""A checkpoint on every machine of a run: read where it lies, or sent by rank 0 to those that do not see it.

Only rank 0 writes a run's folder. On shared storage the others see it; with storage of their own they do not, or see an older
one of the same name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from qlora_fast.hub import manifest
from qlora_fast.runs import layout
from qlora_fast.train.distributed import Ranks

log = logging.getLogger(__name__)

_PIECE = 64 << 20
"""Bytes that are sent at a time."""


@contextmanager
def on_every_machine(folder: Path, ranks: Ranks) -> Iterator[Path]:
    """Inside, the checkpoint that ``folder`` is on rank 0 can be read on this rank, under the path that is given.

    All ranks call it.
    """
    if ranks.world == 1:
        yield folder
        return
    known = ranks.from_first(lambda: (folder / layout.MANIFEST).read_text(encoding="utf-8"))
    sees = _read(folder / layout.MANIFEST) == known and manifest.damage(folder) is None
    missing = [rank for rank, seen in enumerate(ranks.all_gather(torch.tensor(sees))) if not seen]
    if not missing:
        yield folder
        return
    log.info("`%s` is sent to rank %s, which does not see it", folder, ", ".join(map(str, missing)))
    with nullcontext() if sees else TemporaryDirectory(prefix="qlora-fast-") as place:
        # Under its own name, which tells the update that it is of.
        copy = folder if place is None else Path(place) / folder.name
        copy.mkdir(exist_ok=True)
        for name in ranks.from_first(lambda: "\n".join(manifest.listed(folder))).split("\n"):
            _send(folder / name, None if sees else copy / name, ranks)
        yield copy


def _send(source: Path, target: Path | None, ranks: Ranks) -> None:
    """Rank 0's file ``source`` into ``target``, where there is one; every rank takes part."""
    size = int(ranks.from_first(lambda: str(source.stat().st_size)))
    with (
        source.open("rb") if ranks.first else nullcontext() as reader,
        target.open("wb") if target else nullcontext() as out,
    ):
        for start in range(0, size, _PIECE):
            piece = torch.empty(min(_PIECE, size - start), dtype=torch.uint8)
            if reader is not None:
                piece.copy_(torch.from_numpy(np.frombuffer(reader.read(len(piece)), dtype=np.uint8).copy()))
            ranks.from_rank_0(piece)
            if out is not None:
                out.write(piece.numpy().tobytes())


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
