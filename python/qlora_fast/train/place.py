"""Which of a run's processes this one is, as its launcher says it in the environment. No torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from qlora_fast.errors import ConfigError

_HINT = (
    "start the processes with torchrun or accelerate launch, which number them; for a single process unset WORLD_SIZE"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Ranks count from 0.

    Attributes:
        rank, world: among all processes. local_rank, beside: among those of this machine.
    """

    rank: int
    world: int
    local_rank: int
    beside: int

    @classmethod
    def of_environment(cls) -> Place:
        """What ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK`` and ``LOCAL_WORLD_SIZE`` say.

        Raises:
            ConfigError: they say nothing, or contradict each other.
        """
        rank, world = number("RANK"), number("WORLD_SIZE")
        local_rank, beside = number("LOCAL_RANK", rank), number("LOCAL_WORLD_SIZE", world)
        if not (0 <= rank < world and 0 <= local_rank < beside <= world):
            raise ConfigError(
                f"the environment names no place in a run: RANK={rank} of WORLD_SIZE={world}, LOCAL_RANK={local_rank} of "
                f"LOCAL_WORLD_SIZE={beside}",
                hint=_HINT,
            )
        return cls(rank, world, local_rank, beside)


def number(name: str, otherwise: int | None = None) -> int:
    """A number that a launcher puts into the environment.

    Args:
        otherwise: what it is where it is not set.

    Raises:
        ConfigError: it is not a number, or not set although it has to be.
    """
    text = os.environ.get(name)
    if text is None and otherwise is not None:
        return otherwise
    try:
        return int(text or "")
    except ValueError:
        said = f"{name} is not set" if text is None else f"{name}={text} is not a number"
        world = os.environ.get("WORLD_SIZE")
        raise ConfigError(f"{said} in the environment of a process with WORLD_SIZE={world}", hint=_HINT) from None
