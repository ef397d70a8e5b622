"""The random state of every process, stored and restored. Only dropout draws from torch; order and split are stateless."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from qlora_fast.train.distributed import Ranks

log = logging.getLogger(__name__)


def random_states(ranks: Ranks) -> dict[str, Tensor]:
    """The states of torch's generators on all ranks, on every rank: ``rank0.cpu``, ``rank0.cuda``, ``rank1.cpu`` …"""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    return {f"rank{r}.{name}": part for name, state in own.items() for r, part in enumerate(ranks.all_gather(state))}


def restore(states: dict[str, Tensor], ranks: Ranks, fresh_seed: int) -> None:
    """Continue drawing where this rank stopped; with another number of ranks, from a seed of its own.

    A run with other ranks cannot draw the same dropout: each rank has other rows. It must not repeat what was drawn at the
    beginning either.

    Raises:
        KeyError, RuntimeError, TypeError: a state is missing or not one of this torch.
    """
    before = len({name.partition(".")[0] for name in states})
    if before == 0:
        raise KeyError("it holds no random state")
    if before != ranks.world:
        log.info("the run had %d process%s, now %d: dropout masks differ", before, "es" * (before > 1), ranks.world)
        torch.manual_seed(fresh_seed + ranks.rank)
        return
    torch.set_rng_state(states[f"rank{ranks.rank}.cpu"])
    if not torch.cuda.is_available():
        return
    if not any(name.endswith(".cuda") for name in states):
        log.info("the checkpoint was written without a GPU: dropout masks differ")
        torch.cuda.manual_seed(fresh_seed + ranks.rank)
        return
    torch.cuda.set_rng_state(states[f"rank{ranks.rank}.cuda"])
