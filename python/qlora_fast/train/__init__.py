"""A training run: set-up, the loop of optimizer steps, checkpoints, evaluation, the output folder.

May import: config, hub, data, model, runs, errors, atomic_io, plots. Begin with :mod:`~qlora_fast.train.run`, then
:mod:`~qlora_fast.train.trainer`.

The room can be called: ``qlora_fast.train(…)`` is :func:`qlora_fast.train.api.train`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package and the function that it is named for, under one name."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        from qlora_fast.train.api import train

        return train(*args, **settings)


sys.modules[__name__].__class__ = _Callable
