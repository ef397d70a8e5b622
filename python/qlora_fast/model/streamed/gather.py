"""A source that is shared out: each rank of a group keeps an equal part of every unit, and all parts are gathered for a use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from qlora_fast.errors import PeerGone
from qlora_fast.model.streamed.source import Pending


@dataclass(frozen=True, slots=True)
class Share:
    """The ranks that hold a base together, and which of its parts this one holds.

    Attributes:
        group: torch's process group of them.
        kind: ``node`` or ``world``.
    """

    group: Any
    rank: int
    size: int
    kind: str


class Gathered:
    """Each unit's bytes in equal parts, one on each rank of ``share``. A unit's size must be a multiple of their number."""

    shared = True

    def __init__(self, share: Share) -> None:
        self._share = share
        self._parts: list[Tensor] = []

    @property
    def device_bytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def keep(self, index: int, flat: Tensor) -> None:
        self._parts.append(flat.view(self._share.size, -1)[self._share.rank].clone())

    def fill(self, index: int, flat: Tensor) -> Pending:
        """
        Raises:
            PeerGone: another rank has ended.
        """
        try:
            work: Any = dist.all_gather_into_tensor(flat, self._parts[index], group=self._share.group, async_op=True)
        except RuntimeError as error:
            raise PeerGone(str(error)) from error
        return _Gathering(work)


class _Gathering:
    def __init__(self, work: Any) -> None:
        self._work = work

    def wait(self) -> None:
        try:
            self._work.wait()
        except (RuntimeError, torch.distributed.DistError) as error:
            raise PeerGone(str(error)) from error
