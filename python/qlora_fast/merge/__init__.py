"""An adapter merged into its base, tensor by tensor, compared with both, with the files that serving needs.

May import: config, hub, data, model, runs, errors, atomic_io. Begin with :mod:`~qlora_fast.merge.merge`.

The room can be called: ``qlora_fast.merge(…)`` is :func:`qlora_fast.merge.merge.merge`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package and the function that it is named for, under one name."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        from qlora_fast.merge.merge import merge

        return merge(*args, **settings)


sys.modules[__name__].__class__ = _Callable
